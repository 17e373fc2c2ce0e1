"""The torch path on a GPU against itself on the CPU. No GPU has run these yet."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recspark.lake.arrow import find_table, read_table
from recspark.training import job
from recspark.training.job import train
from tests.helpers.training_lake import plan_training, topic_purity, vectors_of, write_topic_sessions

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def train_on(folder: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.setattr(job, "choose_backend", lambda *_: ("torch", device, "test"))
    run = plan_training(folder)
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
