"""What several ranks have seen becomes one line; lines stay few and go back on a resume."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from recspark.training.checkpoint import Checkpoints
from recspark.training.reports import Reports, peak_memory_bytes
from recspark.training.world import World


class TwoRanks(World):
    """Rank 0 of two, of which the other one has seen twice as much of everything."""

    def gather_numbers(self, values: Sequence[float]) -> list[list[float]]:
        return [list(values), [2 * v for v in values]]


class Noted:
    """A tracker that notes what it gets."""

    name = "noted"

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.ended: list[bool] = []

    def log(self, step: int, values: dict[str, float]) -> None:
        self.lines.append((step, values))

    def close(self, is_finished: bool) -> None:
        self.ended.append(is_finished)


def open_reports(folder: Path, num_steps: int = 10, tracker: Noted | None = None) -> Reports:
    world = TwoRanks(rank=0, world_size=2)
    return Reports(world, Checkpoints(str(folder), 2, {}), num_steps, lambda step: [tracker] if tracker else [])


def show(reports: Reports, *steps: int) -> None:
    for step in steps:
        reports.count(tokens=10, waited_seconds=0.0)
        reports.show(step, 0, 0.5, reports.gather(3.0, 2, is_stopping=False))


def lines_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_ranks_are_added_up(tmp_path: Path) -> None:
    reports = open_reports(tmp_path)
    reports.start(0)
    reports.count(tokens=100, waited_seconds=0.2)
    reports.count(tokens=50, waited_seconds=0.1)
    totals = reports.gather(loss=6.0, pairs=4, is_stopping=False)
    assert totals.losses == [6.0, 12.0]
    assert totals.pairs == [4, 8]
    assert totals.tokens == 450
    assert totals.loader_share * totals.seconds == pytest.approx((0.3 + 0.6) / 2)
    assert totals.peak_memory_mb == 2 * peak_memory_bytes("cpu") // 2**20 > 0
    assert not totals.is_stopping
    assert reports.gather(0.0, 0, is_stopping=True).is_stopping
    assert reports.gather(0.0, 0, is_stopping=False).tokens == 0


def test_a_line_holds_the_mean_loss_and_the_place(tmp_path: Path) -> None:
    tracker = Noted()
    reports = open_reports(tmp_path, tracker=tracker)
    reports.start(0)
    show(reports, 1)
    reports.close(is_finished=True)
    (line,) = lines_of(tmp_path)
    assert {name: line[name] for name in ("step", "epoch", "loss", "learning_rate")} == {
        "step": 1, "epoch": 0, "loss": 1.5, "learning_rate": 0.5,
    }  # fmt: skip
    assert set(line) == {
        "step", "epoch", "loss", "learning_rate", "tokens_per_second", "loader_share", "peak_memory_mb",
    }  # fmt: skip
    assert tracker.lines == [(1, {name: value for name, value in line.items() if name != "step"})]
    assert tracker.ended == [True]


def test_a_tracker_that_fails_is_dropped_with_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Full(Noted):
        def log(self, step: int, values: dict[str, float]) -> None:
            super().log(step, values)
            if step == 2:
                raise OSError(28, "No space left on device")

    tracker = Full()
    reports = open_reports(tmp_path, tracker=tracker)
    reports.start(0)
    show(reports, 1, 2, 3, 4)
    reports.close(is_finished=True)
    assert [step for step, _ in tracker.lines] == [1, 2]
    assert tracker.ended == []
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 3, 4]
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert "noted failed" in warning
    assert "No space left on device" in warning


def test_a_tracker_that_cannot_be_closed_raises_nothing_over_what_training_raised(tmp_path: Path) -> None:
    class Stuck(Noted):
        def close(self, is_finished: bool) -> None:
            raise OSError(28, "No space left on device")

    reports = open_reports(tmp_path, tracker=Stuck())
    reports.start(0)
    show(reports, 1)
    reports.close(is_finished=False)
    assert [line["step"] for line in lines_of(tmp_path)] == [1]


def test_a_long_training_keeps_about_a_thousand_lines(tmp_path: Path) -> None:
    reports = open_reports(tmp_path, num_steps=5000)
    reports.start(0)
    show(reports, *range(1, 5001))
    reports.write()
    assert [line["step"] for line in lines_of(tmp_path)] == list(range(5, 5001, 5))


def test_reports_further_apart_than_lines_are_all_kept(tmp_path: Path) -> None:
    reports = open_reports(tmp_path, num_steps=5000)
    reports.start(0)
    show(reports, 20, 40, 57, 60)
    reports.write()
    assert [line["step"] for line in lines_of(tmp_path)] == [20, 40, 57, 60]


def test_a_resume_drops_the_lines_beyond_its_checkpoint(tmp_path: Path) -> None:
    first = open_reports(tmp_path)
    first.start(0)
    show(first, 1, 2, 3, 4)
    first.close(is_finished=False)
    second = open_reports(tmp_path)
    second.start(2)
    show(second, 3)
    second.close(is_finished=False)
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 3]


def test_a_rank_that_does_not_speak_writes_nothing(tmp_path: Path) -> None:
    tracker = Noted()
    world = TwoRanks(rank=1, world_size=2)
    reports = Reports(world, Checkpoints(str(tmp_path), 2, {}), 10, lambda step: [tracker])
    reports.start(0)
    show(reports, 1)
    reports.write()
    reports.close(is_finished=True)
    assert list(tmp_path.iterdir()) == []
    assert tracker.lines == []
