"""`growth_spark`: the source that is written, the config that reads it, and a line a stage and size."""

from pathlib import Path
from typing import ClassVar

import pyarrow.parquet as pq

from benchmarks import event_files, growth_spark
from benchmarks.event_files import COLUMNS, event_batches, write_events
from benchmarks.growth_spark import STAGES, compare, write_conf
from benchmarks.lines import check_line, to_text
from benchmarks.render import render_speed
from recspark.pipeline.open_run import open_run


def cost(seconds, megabytes):
    """What a stage's run answers."""
    return {
        "wall": seconds, "cpu": 2 * seconds, "shuffle_bytes": 3_000_000, "output_bytes": 5_000_000,
        "peak_bytes": {"total": megabytes * 10**6, "jvm": 600 * 10**6, "python": 900 * 10**6},
        "counts": {"pair_cost": 77, "num_rows": 5},
    }  # fmt: skip


def line_of(megabytes=1_500):
    base = ({"events": 1_000_000, "num_items": 50_000}, {"graph": cost(10.0, 1_000)})
    grown = ({"events": 5_000_000, "num_items": 100_000}, {"graph": cost(100.0, megabytes)})
    return compare("graph", base, grown, "6g", "python -m benchmarks growth_spark")


def test_a_line_compares_the_cost_of_an_event():
    line = line_of()
    check_line(line)
    assert (line["ratio"], line["runs"], line["peer"]) == (0.5, 1, "graph of the smallest size")  # 5 x in 10 x the time
    assert line["stage_seconds"] == {"wall": 100.0, "cpu": 200.0}
    assert line["seconds"]["project"] == {"wall": 20.0, "cpu": 40.0}
    assert line["work"]["base"] == {"events": 1_000_000, "num_items": 50_000}
    assert (line["work"]["stage"], line["commit_counts"]) == ("graph", {"pair_cost": 77})
    assert (line["shuffle_mb"], line["output_mb"]) == (3, 5)


def test_a_line_says_whether_memory_was_enough():
    assert line_of()["is_within_limit"] is True
    assert line_of(12_001)["is_within_limit"] is False
    assert "peak memory mb (total 1,500, jvm 600, python 900), memory limit mb 12,000" in render_speed([line_of()])
    assert "\n" not in to_text(line_of())


class Answers:
    """A worker whose answers are known, and who remembers what it was asked."""

    asked: ClassVar[list[str]] = []

    def __init__(self, module):
        self.asked.append(module)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, call, conf, stage=None):
        assert (Path(conf).parent / "events" / "part-000.parquet").exists()
        self.asked.append(stage or f"{call} {Path(conf).parent.name}")
        return cost(1.0, 900)


def test_each_size_is_warmed_up_and_then_measured_stage_by_stage(monkeypatch):
    monkeypatch.setattr(growth_spark, "Worker", Answers)
    monkeypatch.setattr(growth_spark, "_SIZES", ((900, 40), (1_800, 60)))
    monkeypatch.setattr(growth_spark, "_WARM_UP", (500, 30))
    lines = list(growth_spark.run(quick=False, command="python -m benchmarks growth_spark"))
    assert Answers.asked == ["benchmarks.growth_spark_worker", "load full", "warm_up warm", *STAGES] * 2
    assert [line["work"]["stage"] for line in lines] == [*STAGES] * 2
    first, second = lines[0], lines[4]
    assert first["ratio"] == 1
    assert second["work"]["base"] == {"events": first["work"]["events"], "num_items": 40}
    # The same seconds for more events: cheaper an event.
    assert abs(second["ratio"] - second["work"]["events"] / first["work"]["events"]) < 1e-9


def test_the_source_has_about_the_events_asked_for_and_reads_as_the_config_says(tmp_path, monkeypatch):
    monkeypatch.setattr(event_files, "_USERS_A_BATCH", 10)
    monkeypatch.setattr(event_files, "_BATCHES_A_FILE", 2)
    conf = write_conf(tmp_path / "size", "1g")
    written = write_events(tmp_path / "size" / "events", 4_200, 100)  # 50 users: 5 batches in 3 files
    assert len(list((tmp_path / "size" / "events").iterdir())) == 3
    rows = pq.read_table(tmp_path / "size" / "events")
    assert (rows.num_rows, set(rows.column_names)) == (written, set(COLUMNS))
    assert 0.7 * 4_200 < written < 1.3 * 4_200
    assert 50 < len(rows["item_id"].unique()) <= 100
    assert rows["user_id"].null_count == rows["ts"].null_count == 0
    run = open_run(conf)
    assert set(STAGES) <= set(run.stages)


def test_a_larger_source_begins_with_the_same_users():
    small, large = (next(iter(event_batches(events, 100, seed=1))) for events in (840, 1_680))
    assert small.num_rows < large.num_rows
    assert large.slice(0, small.num_rows).equals(small)
