"""What the doctor finds on this machine, and on one where things are missing."""

import sys

import pytest

from recspark.errors import SetupError
from recspark.pipeline import doctor

CONF = "split: {kind: time, cut: 2026-02-16}\n"


def found_by(name: str, checks: list[doctor.Check]) -> doctor.Check:
    return next(check for check in checks if check.name == name)


def test_this_machine_is_fit(tmp_path):
    conf = tmp_path / "run.yaml"
    conf.write_text(CONF)
    checks = doctor.check_machine(str(conf), [f"paths.lake={tmp_path}/not/yet/lake"])
    assert doctor.is_fit(checks), doctor.describe_checks(checks)
    assert {"python", "java", "pyspark", "delta-spark", "delta jars", "torch", "faiss", "memory", "disk", "config"} <= {
        check.name for check in checks
    }
    assert str(tmp_path) in found_by("disk", checks).found


def test_a_config_with_problems_fails_with_its_message(tmp_path):
    conf = tmp_path / "run.yaml"
    conf.write_text(CONF)
    check = found_by("config", doctor.check_machine(str(conf), ["walks.p=-1"]))
    assert check.status == doctor.FAIL
    assert "walks.p: must be > 0, got -1" in check.mend


def test_a_source_that_is_not_what_the_config_says_fails(tmp_path):
    (tmp_path / "e.csv").write_text("u,i,t\n1,a,2026-01-01\n")
    conf = tmp_path / "run.yaml"
    source = (
        f"source: {{kind: files, path: {tmp_path}/e.csv, format: csv, columns: {{user_id: user, item_id: i, ts: t}}}}"
    )
    conf.write_text(CONF + source)
    check = found_by("config", doctor.check_machine(str(conf)))
    assert check.status == doctor.FAIL
    assert "source.columns.user_id: no column 'user' (columns there: u, i, t)" in check.mend


def test_every_line_of_what_to_do_stands_below_its_check():
    check = doctor.Check("config", doctor.FAIL, "run.yaml", "a good one", "2 problems:\n  a\n  b")
    assert doctor.describe_checks([check]).splitlines()[1:4] == [
        "              -> 2 problems:",
        "                   a",
        "                   b",
    ]


def test_no_java_fails(monkeypatch):
    def refuse():
        raise SetupError("no usable Java: install one")

    monkeypatch.setattr(doctor, "find_java", refuse)
    check = found_by("java", doctor.check_machine())
    assert (check.status, check.mend) == (doctor.FAIL, "no usable Java: install one")


def test_a_broken_engine_is_a_finding(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    check = found_by("faiss", doctor.check_machine())
    assert check.status == doctor.FAIL
    assert check.found.startswith("cannot be imported")


@pytest.mark.parametrize(
    ("version", "wanted", "is_good"),
    [("2.15.0+cu132", "2.10", True), ("2.9.1", "2.10", False), ("1.15.1", "1.15.1", True), ("1.8.0", "1.15.1", False)],
)
def test_versions_compare_by_number(version, wanted, is_good):
    assert doctor.is_at_least(version, wanted) == is_good


def test_a_wrong_pyspark_fails(monkeypatch):
    real = doctor.importlib.metadata.version
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: "3.5.1" if name == "pyspark" else real(name))
    check = found_by("pyspark", doctor.check_machine())
    assert (check.status, check.found, check.mend) == (doctor.FAIL, "3.5.1", "pip install pyspark==4.2.0")
