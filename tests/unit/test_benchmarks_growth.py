"""`growth`: a setting's process tells seconds, its own peak memory and its tables' start."""

import numpy as np
import pytest

from benchmarks import growth_worker
from benchmarks.growth import Setting, compare, open_setting
from benchmarks.lines import check_line

_TINY = {"num_items": 200, "dim": 8, "tokens": 4_000}


class Answers:
    """A worker whose answers are known."""

    def __init__(self, wall, start, peak):
        self.run = {"wall": wall, "cpu": 2 * wall, "table_start_seconds": start}
        self.peak = {"peak_memory_mb": peak}

    def ask(self, call):
        return getattr(self, call)


@pytest.mark.parametrize(("backend", "peer"), [("cpu", "setting"), ("torch", "setting, torch path")])
def test_a_line_holds_memory_and_start_of_both_settings(backend, peer):
    smallest = Setting(_TINY, backend, Answers(1.0, 0.1, 100))
    larger = Setting(_TINY | {"tokens": 40_000}, backend, Answers(20.0, 0.3, 900))
    line = compare(smallest, larger, 2, "python -m benchmarks growth")
    check_line(line)
    assert (line["ratio"], line["runs"], line["tokens_per_second"]) == (0.5, 2, 2_000)  # 10 times the work in 20 times
    assert (line["peer"], line["work"]["base"]) == (f"the smallest {peer}", _TINY)
    assert line["peak_memory_mb"] == {"grown": 900, "base": 100}
    assert line["table_start_seconds"] == {"grown": 0.3, "base": 0.1}


def test_a_setting_is_a_process_with_its_own_memory():
    held = np.ones(growth_worker.peak_memory_bytes() // 8 + 200_000_000 // 8)  # ours, not the child's
    with open_setting(_TINY, "cpu") as setting:
        assert setting.train().wall > 0
        assert setting.start_seconds() > 0
        assert 50 < setting.peak_memory_mb() < held.nbytes / 1e6


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_both_backends_train_what_was_loaded(backend, tmp_path):
    tokens = np.arange(400, dtype=np.int32).reshape(20, 20)
    np.save(tmp_path / "tokens.npy", tokens)
    np.save(tmp_path / "counts.npy", np.ones(400, np.int64))
    growth_worker.load(str(tmp_path / "tokens.npy"), str(tmp_path / "counts.npy"), 8, backend)
    found = growth_worker.run()
    assert min(found["wall"], found["table_start_seconds"]) > 0
    assert set(found) == {"wall", "cpu", "table_start_seconds"}


def test_peak_memory_grows_with_what_is_held():
    before = growth_worker.peak_memory_bytes()
    held = np.ones(before // 8 + 4_000_000)  # more than ever before
    assert held.nbytes <= growth_worker.peak_memory_bytes() < before + held.nbytes + 100e6
