"""The commands as people type them: what they print, and how they end."""

import pytest
import yaml
from typer.testing import CliRunner

from recspark.cli import app
from recspark.errors import RecsparkError, ReleaseError
from recspark.pipeline import release as module
from recspark.pipeline.release import find_lake, find_limits
from tests.helpers.release_lake import plan_releasable


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


def test_what_the_active_release_serves_is_not_built_over(released):
    """A model trained again under its key: the index of the old one is whole, and somebody reads it."""
    from recspark.errors import LakeError
    from recspark.lake.folders import find_flaw
    from recspark.pipeline.side import run_stages
    from tests.helpers.tiny_lake import write_embeddings

    run = released.run(1)
    say("release", "activate", released.lake, released.first)
    write_embeddings(run, {i: [1.0 + i] * 6 for i in range(60)})
    index_id = run.stages["index"].id
    with pytest.raises(LakeError, match=rf"over indexes/{index_id}, which the active release {released.first} serves"):
        run_stages(run, ["index"])
    assert find_flaw(run.lake, "indexes", index_id) is None
    say("release", "activate", released.lake, released.second)
    run_stages(run, ["index"])
