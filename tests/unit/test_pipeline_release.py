"""The commands as people type them: what they print, and how they end."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from recspark.cli import app
from recspark.errors import ConfigError, LakeError, RecsparkError, ReleaseError
from recspark.lake.folders import find_flaw, unpublish_folder
from recspark.pipeline import release as module
from recspark.pipeline.release import find_lake, find_limits
from recspark.pipeline.side import run_stages
from recspark.releases.leases import drop_lease, take_lease
from recspark.releases.registry import action_record, change_registry
from tests.helpers.release_lake import plan_releasable
from tests.helpers.tiny_lake import write_embeddings


def say(*arguments, code=0):
    """What a command prints."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, RecsparkError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def conf(tmp_path):
    """A config of a lake beside it."""
    (tmp_path / "lake").mkdir()
    values = {
        "paths": {"lake": str(tmp_path / "lake")},
        "split": {"kind": "time", "cut": "2026-02-01"},
        "release": {"gates": {"min_recall": 0.5}},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def test_the_way_from_ready_to_active_and_back(released):
    lake = released.lake
    assert say("release", "list", lake).splitlines()[1].startswith(f"{released.first}  READY")
    assert f"release {released.first} is active" in say("release", "activate", lake, released.first)
    assert f"in place of {released.first}" in say("release", "activate", lake)
    shown = say("release", "show", lake)
    assert shown.startswith(f"release {released.second}  ACTIVE: activated\n")
    assert f"before it: {released.first}" in shown
    assert "item_embeddings    version 1     60 rows in 1 files" in shown
    assert shown.splitlines()[-9] == "gates:"
    assert "no other release is active" in shown
    assert f"release {released.first} is active" in say("release", "rollback", lake, "--reason", "complaints")
    lines = say("release", "list", lake).splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [[released.first, "ACTIVE"], [released.second, "RETIRED"]]
    assert lines[2].endswith(f"taken back for {released.first}: complaints")


def test_verify_ends_with_2_where_something_is_damaged(released):
    say("release", "activate", released.lake, released.first)
    assert "checks, all as it was published" in say("release", "verify", released.lake)
    released.file("models", released.row(released.first).model_id, "vectors.safetensors").unlink()
    for command in (["release", "verify"], ["verify", "release"]):
        said = say(*command, released.lake, code=2)
        assert "vectors.safetensors: missing" in said
        assert said.splitlines()[-1].endswith(" 1 damaged")


def test_force_needs_a_word(released):
    with pytest.raises(ReleaseError, match="say why"):
        say("release", "activate", released.lake, "--force", "")


def test_gc_and_vacuum_say_what_they_would_do(released):
    said = say("lake", "gc", released.lake, "--keep", 1, "--dry-run")
    assert f"kept     release {released.second}: one of the newest 1" in said
    assert f"would remove release {released.first}: READY, published" in said
    assert "would free 0 files" in say("lake", "vacuum", released.lake, "--dry-run")
    assert f"removed release {released.first}" in say("lake", "gc", released.lake, "--keep", 1)


def test_publish_takes_defaults_without_a_section(released, conf, monkeypatch):
    asked = []

    def open_finished(path, overrides, stage):
        asked.append((list(overrides), stage))
        return plan_releasable(released.folder, 1, release={})

    monkeypatch.setattr(module, "open_finished_run", open_finished)
    assert "is READY; make it active by `recspark release activate" in say("release", "publish", conf, "run.seed=2")
    assert "is READY" in say("release", "publish", conf, "release=null")
    assert asked == [(["run.seed=2"], "index"), (["release=null", "release={}"], "index")]


def test_settings_go_with_a_config_as_in_other_commands(released, conf):
    there = f"paths.lake={released.lake}"
    with pytest.raises(ReleaseError, match=r"refused by 1 gate: min_coverage"):
        say("release", "activate", conf, released.first, there, "release.gates.min_coverage=0.999")
    assert f"{released.first} is active" in say("release", "activate", conf, there, released.first)
    assert "all as it was published" in say("release", "verify", conf, there)
    assert "all as it was published" in say("verify", "release", conf, there, released.first)
    assert released.second in say("release", "list", conf, there)
    assert f"release {released.first}  ACTIVE" in say("release", "show", conf, there)
    assert f"{released.second} is active" in say("release", "rollback", conf, released.second, there)
    assert "kept " in say("lake", "gc", conf, there, "--dry-run")
    assert "would free" in say("lake", "vacuum", conf, there, "--dry-run")
    with pytest.raises(ConfigError, match="takes one release, and settings as key=value"):
        say("release", "show", conf, "ab", "cd")
    with pytest.raises(ConfigError, match=r"run.seed=2: settings are those of a config, and .* is a lake"):
        say("release", "activate", released.lake, "run.seed=2")


def test_a_lake_is_named_by_itself_or_by_a_config(conf, tmp_path):
    assert find_lake(conf) == find_lake(str(tmp_path / "lake")) == str(tmp_path / "lake")
    assert find_limits(conf)["min_recall"] == 0.5
    assert find_limits(str(tmp_path / "lake")) is None
    assert "no release in" in say("release", "list", conf)
    with pytest.raises(ReleaseError, match="no such folder; give the lake, or the YAML file of a run"):
        find_lake(str(tmp_path / "nowhere"))
    with pytest.raises(ReleaseError, match="no release is active; name one"):
        say("release", "show", conf)
    with pytest.raises(ReleaseError, match=r"activate: no release of .* is READY; run `recspark release publish"):
        say("release", "activate", conf)


def test_an_index_that_a_release_refers_to_is_not_built_over(released):
    """A model trained again under its key: the index of the old one is whole, and somebody reads it, or may again."""
    run = released.run(1)
    write_embeddings(run, {i: [1.0 + i] * 6 for i in range(60)})
    index_id = run.stages["index"].id
    moves = {
        "READY": lambda: None,
        "ACTIVE": lambda: say("release", "activate", released.lake, released.first),
        "RETIRED": lambda: say("release", "activate", released.lake, released.second, "--force", "a test"),
    }
    for state, move in moves.items():
        move()
        with pytest.raises(LakeError, match=rf"over indexes/{index_id}, which release {released.first} \({state}\)"):
            run_stages(run, ["index"])
        assert find_flaw(run.lake, "indexes", index_id) is None


def test_nor_one_that_a_reader_has_leased(released):
    def fail(found):
        return found.rows | {released.first: found.rows[released.first].moved("FAILED", "a test")}

    run = released.run(1)
    write_embeddings(run, {i: [1.0 + i] * 6 for i in range(60)})
    lease = take_lease(released.lake, released.first, hours=1)
    change_registry(released.lake, fail, action_record("fail", released.first))
    with pytest.raises(LakeError, match=rf"which release {released.first} \(FAILED\) refers to"):
        run_stages(run, ["index"])
    drop_lease(lease)
    run_stages(run, ["index"])


@pytest.mark.parametrize("was_begun", [False, True])
def test_a_lost_file_of_the_index_is_mended_by_the_command_that_is_advised(released, was_begun):
    """The same bytes are the same index: every release on it is whole again, if the build was killed in between too."""
    run = released.run(1)
    shard = released.file("indexes", run.stages["index"].id, "shard-00001.faiss")
    shard.unlink()
    say("release", "activate", released.lake, released.second)
    with pytest.raises(ReleaseError, match=r"shard-00001\.faiss: missing"):
        say("release", "rollback", released.lake, released.first)
    if was_begun:
        unpublish_folder(run.lake, "indexes", run.stages["index"].id)
    run_stages(run, ["index"])
    assert "all as it was published" in say("release", "verify", released.lake, released.first)


def test_another_index_under_the_id_has_a_manifest_of_its_own(released):
    run = released.run(1)
    path = released.file("indexes", run.stages["index"].id, "manifest.json")
    before = path.read_text()
    write_embeddings(run, {i: [1.0 + i] * 6 for i in range(60)})
    path.parent.joinpath("shard-00001.faiss").unlink()
    run_stages(run, ["index"])
    assert json.loads(path.read_text())["inputs"] != json.loads(before)["inputs"]
    assert not path.with_name("manifest.before.json").exists()
