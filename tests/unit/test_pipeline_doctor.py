"""What the doctor finds on this machine, and on one where things are missing."""

import sys

import pytest

from recspark import memory
from recspark.errors import SetupError
from recspark.pipeline import doctor, doctor_config, doctor_resources
from recspark.pipeline.doctor_check import FAIL, OK, WARN, Check, describe_checks, is_fit

CONF = "split: {kind: time, cut: 2026-02-16}\n"


def found_by(name: str, checks: list[Check]) -> Check:
    return next(check for check in checks if check.name == name)


def test_this_machine_is_fit(tmp_path):
    conf = tmp_path / "run.yaml"
    conf.write_text(CONF)
    checks = doctor.check_machine(str(conf), [f"paths.lake={tmp_path}/not/yet/lake"])
    assert is_fit(checks), describe_checks(checks)
    assert {"python", "java", "pyspark", "delta-spark", "delta jars", "torch", "faiss", "memory", "disk", "config"} <= {
        check.name for check in checks
    }
    assert str(tmp_path) in found_by("disk", checks).found


def test_a_config_with_problems_fails_with_its_message(tmp_path):
    conf = tmp_path / "run.yaml"
    conf.write_text(CONF)
    check = found_by("config", doctor.check_machine(str(conf), ["walks.p=-1"]))
    assert check.status == FAIL
    assert "walks.p: must be > 0, got -1" in check.mend


def test_a_source_that_is_not_what_the_config_says_fails(tmp_path):
    (tmp_path / "e.csv").write_text("u,i,t\n1,a,2026-01-01\n")
    conf = tmp_path / "run.yaml"
    source = (
        f"source: {{kind: files, path: {tmp_path}/e.csv, format: csv, columns: {{user_id: user, item_id: i, ts: t}}}}"
    )
    conf.write_text(CONF + source)
    check = found_by("config", doctor.check_machine(str(conf)))
    assert check.status == FAIL
    assert "source.columns.user_id: no column 'user' (columns there: u, i, t)" in check.mend


def check_config(tmp_path, *overrides: str) -> list[Check]:
    conf = tmp_path / "run.yaml"
    conf.write_text(CONF)
    return doctor_config.check_config(str(conf), [f"paths.lake={tmp_path}/lake", *overrides])


@pytest.mark.parametrize(
    ("overrides", "status", "key"),
    [
        (["spark.driver_memory=4g"], OK, "spark.driver_memory 4g"),
        (["spark.driver_memory=6g"], OK, "spark.driver_memory 6g"),
        (["spark.driver_memory=6145m"], WARN, "spark.driver_memory 6145m"),
        (["spark.driver_memory=8g"], WARN, "spark.driver_memory 8g"),
        (["spark.driver_memory=9g"], FAIL, "spark.driver_memory 9g"),
        (["spark.driver_memory=1t"], FAIL, "spark.driver_memory 1t"),
        (["spark.conf={spark.driver.memory: 64GB}"], FAIL, "spark.conf spark.driver.memory 64GB"),
        (["spark.conf={spark.driver.memory: '99'}", "spark.driver_memory=9g"], OK, "spark.conf spark.driver.memory 99"),
        (["spark.conf={spark.driver.memory: much}"], FAIL, "spark.conf spark.driver.memory 'much'"),
    ],
)  # fmt: skip
def test_a_heap_is_held_against_the_memory(tmp_path, monkeypatch, overrides, status, key):
    monkeypatch.setattr(doctor_resources, "total_memory_bytes", lambda: 8 * 2**30)
    check = found_by("driver memory", check_config(tmp_path, *overrides))
    assert (check.status, check.found.split(",")[0]) == (status, key)
    assert check.needed == "at most 6.0 GiB, three quarters of the memory"
    name = key.rpartition(" ")[0]
    assert check.mend.startswith(f"set {name} to a size such as 4g" if "much" in key else f"set {name} to 4g: ")


def test_small_machines_are_told_a_heap_that_fits(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor_resources, "total_memory_bytes", lambda: 3 * 2**29)
    check = found_by("driver memory", check_config(tmp_path))
    assert (check.status, check.found) == (FAIL, "spark.driver_memory 4g, memory 1.5 GiB")
    assert check.mend.startswith("set spark.driver_memory to 768m: ")


def test_another_delta_among_the_packages_fails(tmp_path):
    packages = "io.delta:delta-spark_2.13:3.2.0"
    check = found_by("spark packages", check_config(tmp_path, f"spark.conf={{spark.jars.packages: '{packages}'}}"))
    assert (check.status, check.found) == (FAIL, packages)
    assert "io.delta:delta-spark_4.2_2.13:4.4.0 belong together; leave Delta out" in check.mend
    good = "org.apache.hadoop:hadoop-aws:3.4.2"
    assert (
        found_by("spark packages", check_config(tmp_path, f"spark.conf={{spark.jars.packages: '{good}'}}")).status == OK
    )
    assert all(one.name != "spark packages" for one in check_config(tmp_path))


def test_a_lake_that_can_be_written_is_left_as_it_was(tmp_path):
    lake = tmp_path / "lake"
    assert found_by("lake", check_config(tmp_path)).found == f"{lake} can be written"
    assert not lake.exists()
    (lake / "tables").mkdir(parents=True)
    assert found_by("lake", check_config(tmp_path)).status == OK
    assert list(lake.iterdir()) == [lake / "tables"]
    assert list((lake / "tables").iterdir()) == []
    by_uri = found_by("lake", check_config(tmp_path, f"paths.lake=file://{lake}"))
    assert (by_uri.status, by_uri.found) == (OK, f"{lake} can be written")


def test_a_lake_where_nobody_can_make_a_folder_fails(tmp_path):
    check = found_by("lake", check_config(tmp_path, "paths.lake=/proc/shop/lake"))
    assert check.status == FAIL
    assert check.found.startswith("/proc cannot be written (")
    assert "set paths.lake to another folder" in check.mend


def test_a_folder_of_the_lake_that_is_another_users_fails(tmp_path, monkeypatch):
    """As root, who may write everywhere, tests can only play the refusal."""
    tables = tmp_path / "lake" / "tables"
    tables.mkdir(parents=True)
    real = doctor_config.tempfile.TemporaryFile

    def refuse(dir):
        if dir == tables:
            raise PermissionError(13, "Permission denied")
        return real(dir=dir)

    monkeypatch.setattr(doctor_config.tempfile, "TemporaryFile", refuse)
    check = found_by("lake", check_config(tmp_path))
    assert (check.status, check.found) == (FAIL, f"{tables} cannot be written (Permission denied)")


def test_a_lake_that_cannot_be_is_told_once(tmp_path):
    (tmp_path / "file").touch()
    checks = check_config(tmp_path, f"paths.lake={tmp_path}/file/lake")
    assert [(check.name, check.status) for check in checks if check.status == FAIL] == [("config", FAIL)]
    assert f"{tmp_path}/file is a file, a lake is a folder" in found_by("config", checks).mend


def test_memory_is_the_containers_where_that_is_less(tmp_path, monkeypatch):
    machine = memory.total_memory_bytes()
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    for text, expected in (("max\n", machine), ("1073741824\n", 2**30), (str(2 * machine), machine)):
        (tmp_path / "memory.max").write_text(text)
        assert memory.total_memory_bytes() == expected
    (tmp_path / "memory.max").write_text("1073741824\n")
    (tmp_path / "memory.current").write_text("1073741000\n")
    assert memory.free_memory_bytes() == 824


def test_every_line_of_what_to_do_stands_below_its_check():
    check = Check("config", FAIL, "run.yaml", "a good one", "2 problems:\n  a\n  b")
    assert describe_checks([check]).splitlines()[1:4] == [
        "              -> 2 problems:",
        "                   a",
        "                   b",
    ]


def test_no_java_fails(monkeypatch):
    def refuse():
        raise SetupError("no usable Java: install one")

    monkeypatch.setattr(doctor, "find_java", refuse)
    check = found_by("java", doctor.check_machine())
    assert (check.status, check.mend) == (FAIL, "no usable Java: install one")


def test_a_broken_engine_is_a_finding(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    check = found_by("faiss", doctor.check_machine())
    assert check.status == FAIL
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
    assert (check.status, check.found, check.mend) == (FAIL, "3.5.1", "pip install pyspark==4.2.0")
