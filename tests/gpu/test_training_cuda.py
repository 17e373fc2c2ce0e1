"""The torch path on a GPU against itself on the CPU. No GPU has run these yet."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recspark.lake.arrow import find_table, read_table
from recspark.training import job
from recspark.training.job import train
from recspark.training.staging import stage
from tests.helpers.training_lake import plan_training, topic_purity, vectors_of, write_topic_sessions

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def train_on(folder: Path, device: str, monkeypatch: pytest.MonkeyPatch, **training: str) -> np.ndarray:
    monkeypatch.setattr(job, "choose_backend", lambda *_: ("torch", device, "test"))
    run = plan_training(folder, **training)
    write_topic_sessions(run)
    train(run)
    return vectors_of(read_table(find_table(run.lake, run.stages["train"], "item_embeddings")).sort_by("idx"))


def test_a_gpu_learns_what_a_cpu_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu, on_cpu = (train_on(tmp_path / device, device, monkeypatch) for device in ("cuda", "cpu"))
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-3, atol=1e-3)
    assert topic_purity(on_gpu) > 0.95


def test_a_gpu_repeats_itself_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (train_on(tmp_path / name, "cuda", monkeypatch) for name in ("first", "second"))
    np.testing.assert_array_equal(first, second)


def test_batches_are_page_locked_and_arrive_whole() -> None:
    array = np.arange(1000, dtype=np.int32)
    pinned = torch.from_numpy(stage((array,), "cuda:0")[0])
    assert pinned.is_pinned()
    np.testing.assert_array_equal(pinned.to("cuda", non_blocking=True).cpu().numpy(), array)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_lower_precision_learns_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        vectors = train_on(tmp_path, "cuda", monkeypatch, matmul_precision=precision)
    finally:
        torch.set_float32_matmul_precision(before)
    assert topic_purity(vectors) > 0.95
