"""Batches keep their shape and content on the way; without a GPU nothing is copied."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch

from recspark.config.schema import ModelConfig, TrainingConfig
from recspark.training import staging
from recspark.training.objective import Place, build_objective
from recspark.training.sequence_files import Sequences
from recspark.training.staging import stage
from recspark.training.torch_backend import TorchBackend
from recspark.training.world import World


class Rows(NamedTuple):
    items: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True)
class Batch:
    rows: Rows
    pairs: int
    weights: np.ndarray
    more: tuple[np.ndarray, str]
    nothing: None = None


def make_batch() -> Batch:
    rows = Rows(np.arange(3), np.zeros(0, np.int32))
    return Batch(rows, 7, np.ones((2, 2), np.float32), (np.array([True]), "x"))


def test_without_a_gpu_a_batch_stays_where_it_is() -> None:
    batch = make_batch()
    assert stage(batch, "cpu") is batch


def test_every_array_is_copied_once_and_the_rest_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = []

    def note(array: np.ndarray) -> np.ndarray:
        pinned.append(array.copy())
        return pinned[-1]

    monkeypatch.setattr(staging, "pin", note)
    batch = make_batch()
    found = stage(batch, "cuda:0")
    assert isinstance(found.rows, Rows)
    assert (found.pairs, found.more[1], found.nothing) == (7, "x", None)
    copies, originals = ([b.rows.items, b.rows.starts, b.weights, b.more[0]] for b in (found, batch))
    assert [id(a) for a in copies] == [id(a) for a in pinned]
    for copy, original in zip(copies, originals, strict=True):
        np.testing.assert_array_equal(copy, original)
        assert copy.dtype == original.dtype


@pytest.mark.parametrize("kind", ["skip_gram", "cbow"])
def test_a_step_of_one_rank_reads_nothing_back_from_its_device(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """What a step has to know on the host is made ahead of it: on a GPU each look would wait for all work before."""
    objective = build_objective(ModelConfig(kind=kind), TrainingConfig(shared_negatives=2), np.arange(1, 31), 0)
    backend = TorchBackend(4, objective, World(), num_threads=1)
    items = np.random.default_rng(0).integers(0, 30, 60).astype(np.int32)
    prepared = backend.prepare(Sequences(items, np.arange(0, 61, 6)), Place(0, 0, 0, 0))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a look at the device")

    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    backend.step(prepared, 0.1)
    monkeypatch.undo()
    loss, pairs = backend.take_loss()
    assert loss > 0
    assert pairs == prepared.batch.num_pairs > 0


def test_precision_is_lowered_on_a_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    counts, config = np.array([1, 2]), TrainingConfig(matmul_precision="medium")
    TorchBackend(2, build_objective(ModelConfig(), config, counts, 0), World(), num_threads=1)
    assert asked == []
