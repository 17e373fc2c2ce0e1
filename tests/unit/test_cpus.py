"""CPUs are counted as this process may use them."""

import os
from pathlib import Path

import pytest

from recspark import cpus


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 6), ("150000 100000", 2), ("50000 100000", 1), ("900000 100000", 6), ("", 6), ("x 1", 6)],
)
def test_a_quota_counts_where_it_is_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(cpus, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    assert cpus.count_cpus() == expected


def test_without_affinity_and_groups_the_machine_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cpus, "_QUOTA", tmp_path / "none")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert cpus.count_cpus() == 5
