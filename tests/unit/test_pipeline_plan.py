"""Which stages a run takes, what the dry run says, how failures end."""

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from recspark.config import RunConfig, plan_run
from recspark.contracts.tables import ITEM_GRAPH
from recspark.errors import ConfigError, IndexReadError
from recspark.index.job import build_index
from recspark.lake.arrow import find_table, table_uri, write_table
from recspark.lake.folders import publish_folder
from recspark.lake.storage import write_bytes
from recspark.pipeline import launch
from recspark.pipeline.doctor_check import FAIL, OK, WARN, Check, describe_checks, is_fit
from recspark.pipeline.hints import filled_in
from recspark.pipeline.plan import describe_states, find_states, select_stages
from recspark.pipeline.side import STAGE_FILE
from tests.helpers.index_lake import make_items, plan_index_run, write_items
from tests.helpers.tiny_lake import plan_tiny, write_stage


def run_with(lake: str, source="f00", **sections):
    config = {"split": {"kind": "time", "cut": "2026-01-01"}, "paths": {"lake": lake}, **sections}
    return plan_run(RunConfig.model_validate(config), {"fingerprint": source, "kind": "synthetic"})


def test_stages_between_two_names(lake):
    run = run_with(lake)
    assert select_stages(run, None, "graph") == ["ingest", "sessions", "graph"]
    assert select_stages(run, "train", None) == ["train", "index", "evaluate"]
    assert select_stages(run, "walks", "walks") == ["walks"]


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [
        ("nowhere", None, "stage nowhere: no such stage; it has ingest, sessions, graph"),
        (None, "index", "stage index: this config has none"),
        ("train", "graph", "--from train comes after --to graph"),
    ],
)
def test_a_wrong_range_is_named(lake, first, last, message):
    with pytest.raises(ConfigError, match=message):
        select_stages(run_with(lake, index=None), first, last)


def finish_graph(run):
    rows = pa.table({"src_idx": [0], "dst_idx": [[1]], "score": [[1.0]], "count": [[2]]}, ITEM_GRAPH.schema)
    write_table(run.lake, ITEM_GRAPH, rows, run.record("graph", is_marker=True, inputs={"sessions": 4}))


def test_dry_run_gives_versions_and_reasons(lake):
    finish_graph(run_with(lake))
    text = describe_states(run := run_with(lake), find_states(run, ["graph", "walks"]))
    assert "done at version 0" in text
    assert "reads  sessions at 4" in text
    assert "to build: never built in this lake" in text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"graph": {"num_neighbours": 7, "score": "count"}},
            "graph.num_neighbours 50 -> 7; graph.score 'cosine' -> 'count'",
        ),
        ({"source": "other"}, "its source or an earlier stage differs"),
    ],
)
def test_dry_run_says_why_a_stage_is_rebuilt(lake, changes, reason):
    finish_graph(run_with(lake))
    (state,) = find_states(run_with(lake, **changes), ["graph"])
    assert reason in state.reason


def test_a_stage_waits_for_those_it_reads(lake):
    run = run_with(lake)
    states = {s.stage.name: s for s in find_states(run, list(run.stages))}
    assert states["walks"].reason == "graph has to run first"
    assert states["index"].reason == "train has to run first"


@pytest.fixture
def built(tmp_path):
    """A run whose Spark stages and evaluation are finished, on tables without rows."""
    run = plan_tiny(tmp_path, training={"corpus": "sessions"}, walks=None)
    for name in run.stages:
        if name != "train":
            write_stage(run, name, {})
    assert [s.stage.name for s in find_states(run, list(run.stages)) if not s.is_done] == ["train"]
    return run


@pytest.mark.parametrize(
    ("gone", "reasons"),
    [
        (["items"], {"sessions": "its table items is gone"}),
        (["user_histories", "items"], {"sessions": "its tables items, user_histories are gone"}),
        (["events"], {"ingest": "its table events is gone"}),
        (["sessions", "items"], {"sessions": "its table sessions is gone"}),
        (["item_graph"], dict.fromkeys(["graph", "item_knn_graph"], "its table item_graph is gone")),
        (["recommendations"], {"evaluate": "its table recommendations is gone"}),
        (["quarantine"], dict.fromkeys(["ingest", "sessions"], "its table quarantine is gone")),
        (
            ["metrics"],
            {"evaluate": "it has written recommendations, not metrics: it was stopped, or that table is gone"},
        ),
        (["metrics", "recommendations"], {"evaluate": "train has to run first"}),
    ],
)
def test_a_table_that_is_gone_is_the_reason(built, gone, reasons):
    for name in gone:
        shutil.rmtree(table_uri(built.lake, name))
    states = {s.stage.name: s for s in find_states(built, list(built.stages))}
    found = {name: state.reason for name, state in states.items() if not state.is_done and name != "train"}
    assert found == reasons
    for name, reason in reasons.items():
        assert (states[name].flaw == reason) is not reason.startswith("train")
        assert f"to build: {reason}" in describe_states(built, [states[name]])


def test_a_table_of_another_config_is_not_missed(built):
    """A lake that holds other tables only: nothing of this config was ever built in it."""
    other = plan_tiny(Path(built.lake).parent, split={"kind": "time", "cut": "2026-01-02"}, walks={"p": 0.5})
    shutil.rmtree(table_uri(built.lake, "item_graph"))
    (state,) = find_states(other, ["graph"])
    assert (state.reason, state.flaw) == ("never built in this lake", None)


@pytest.fixture
def indexed(tmp_path, monkeypatch):
    """A run whose train and index stages are finished; its model folder and its index folder."""
    run = plan_index_run(tmp_path / "lake", kind="flat", num_shards=2)
    write_items(run, make_items(60, 16))
    model, index = (Path(run.lake, kind, run.stages[s].id) for kind, s in (("models", "train"), ("indexes", "index")))
    write_bytes(str(model / "v.bin"), b"vectors")
    publish_folder(run.lake, "models", model.name, ["v.bin"], counts={}, config={}, inputs={}, facts={}, run_id="r")
    build_index(run)
    return run, model, index


def states_of(run):
    return {state.stage.name: state for state in find_states(run, ["train", "index"])}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda p: (p / "shard-00001.faiss").unlink(), ": shard-00001.faiss is missing"),
        (lambda p: os.truncate(p / "ids.parquet", 9), ": ids.parquet has 9 bytes, the manifest says "),
        (lambda p: (p / "manifest.json").unlink(), " has no manifest.json: its build was stopped, or"),
        (lambda p: (p / "manifest.json").write_text("{}"), "/manifest.json cannot be read: not a recspark manifest"),
    ],
)
def test_a_damaged_index_is_built_again_and_the_dry_run_says_why(indexed, damage, reason):
    run, _, index = indexed
    assert all(state.is_done for state in states_of(run).values())
    damage(index)
    state = states_of(run)["index"]
    assert (state.is_done, state.flaw) == (False, state.reason)
    assert state.reason.startswith(f"indexes/{index.name}{reason}")
    assert f"to build: {state.reason}" in describe_states(run, [state])
    build_index(run)
    assert states_of(run)["index"].is_done


def test_a_damaged_model_is_trained_again_though_its_tables_are_whole(indexed):
    run, model, _ = indexed
    (model / "v.bin").unlink()
    states = states_of(run)
    assert states["train"].reason == f"models/{model.name}: v.bin is missing"
    assert states["index"].is_done
    assert find_table(run.lake, run.stages["train"], "item_embeddings").version == 0  # readers need no model folder


def test_an_index_of_replaced_vectors_is_built_again(indexed):
    run, _, _ = indexed
    write_items(run, make_items(60, 16, seed=5))
    assert states_of(run)["index"].reason == "made of item_embeddings at version 0, which is now at 1"
    build_index(run)
    assert states_of(run)["index"].is_done


def test_a_stage_never_begun_has_no_flaw(lake):
    run = run_with(lake)
    assert [state.flaw for state in find_states(run, list(run.stages))] == [None] * len(run.stages)


@pytest.mark.parametrize(
    ("begun", "message"),
    [
        ("sessions", "sessions: the process ended with code 2; not started: graph, walks, train"),
        ("walks", "walks: the process ended with code 2; not started: train"),
        (None, "the process ended with code 2 in its start; not started: ingest, sessions, graph, walks, train"),
    ],
)
def test_a_stop_names_the_stage_and_those_not_started(lake, monkeypatch, begun, message):
    def start(_, env):
        if begun:
            Path(env[STAGE_FILE]).write_text(begun)
        return type("Child", (), {"wait": lambda self: 2})()

    monkeypatch.setattr(launch.subprocess, "Popen", start)
    run = run_with(lake)
    names = ["ingest", "sessions", "graph", "walks", "train"]
    with pytest.raises(launch.StageFailed) as caught:
        launch.run_all(run, find_states(run, names), ["run.yaml"])
    assert str(caught.value) == message


def test_the_last_stage_leaves_nothing_unstarted():
    assert str(launch.StageFailed(["evaluate"], 1, has_begun=True)) == "evaluate: the process ended with code 1"


def test_hints_name_the_command_to_type():
    message = "no finished index; run `recspark run CONF --to index`, CONF stays elsewhere"
    with pytest.raises(IndexReadError) as caught, filled_in(["my runs/a.yaml", "walks.p=0.5"]):
        raise IndexReadError(message)
    assert str(caught.value) == (
        "no finished index; run `recspark run 'my runs/a.yaml' walks.p=0.5 --to index`, CONF stays elsewhere"
    )


@pytest.mark.parametrize(("code", "expected"), [(2, 2), (1, 1), (-9, 1), (75, 75), (143, 143), (-15, 143)])
def test_exit_codes_of_sides_become_ours(lake, monkeypatch, code, expected):
    class Child:
        def wait(self):
            return code

    monkeypatch.setattr(launch.subprocess, "Popen", lambda *a, **k: Child())
    run = run_with(lake)
    with pytest.raises(launch.StageFailed) as caught:
        launch.run_all(run, find_states(run, ["ingest"]), ["run.yaml"])
    assert caught.value.exit_code == expected


@pytest.mark.parametrize(
    ("code", "word", "step", "expected"),
    [
        (1, 2, None, 2),  # torchrun's own code is 1: what a rank has left counts
        (1, 1, 40, 1),  # a rank was lost
        (1, 143, 40, 1),  # the same: torchrun has then ended the others
        (1, 75, 40, 75),  # one rank was told to end, and all agreed
        (143, 75, 40, 75),  # torchrun was told to end, while they trained
        (143, 143, 40, 75),  # and when they were about to go on from a checkpoint
        (143, 1, 40, 75),  # and one ended before the other
        (143, 143, None, 143),  # and before there was one
        (143, None, 40, 143),  # and before they could answer
        (-9, None, None, -9),
    ],
)
def test_a_stop_of_several_processes_is_told_from_the_loss_of_one(code, word, step, expected):
    assert launch.find_code(code, word, is_group=True, step=step) == expected


def test_a_stopped_training_says_how_to_go_on():
    failed = launch.StageFailed(["train", "index"], 75, has_begun=True, step=40)
    assert str(failed) == "train: checkpoint of step 40; run the same command again to go on; not started: index"
    assert failed.exit_code == 75


def test_a_side_that_ends_well_without_its_result_is_found_out(lake, monkeypatch):
    monkeypatch.setattr(launch.subprocess, "Popen", lambda *a, **k: type("Child", (), {"wait": lambda self: 0})())
    run = run_with(lake)
    with pytest.raises(Exception, match="ended without an error but its result is not in"):
        launch.run_all(run, find_states(run, ["ingest"]), ["run.yaml"])


def test_several_training_processes_go_through_torchrun(lake, monkeypatch):
    started = []

    def start(command, **_):
        started.append(command)
        return type("Child", (), {"wait": lambda self: 2})()

    monkeypatch.setattr(launch.subprocess, "Popen", start)
    run = run_with(lake, training={"num_processes": 2, "max_restarts": 3})
    with pytest.raises(launch.StageFailed):
        launch.run_all(run, find_states(run, ["train"]), ["run.yaml", "a.b=c"])
    assert started[0][1:] == [
        "-m", "recspark.pipeline.torchrun", "--standalone", "--nproc-per-node", "2", "--max-restarts", "3",
        "-m", "recspark.pipeline.side", "train", "run.yaml", "a.b=c",
    ]  # fmt: skip


def test_a_user_error_of_a_rank_is_not_lost_in_torchrun(lake, tmp_path):
    """A real torchrun, whose own exit code is 1: the config of its ranks has no such file."""
    run = run_with(lake, training={"num_processes": 2})
    with pytest.raises(launch.StageFailed) as caught:
        launch.run_all(run, find_states(run, ["train"]), [str(tmp_path / "none.yaml")])
    assert caught.value.exit_code == 2


def test_doctor_says_what_to_do_and_when_the_chain_cannot_run():
    checks = [Check("java", OK, "17", "17 or 21"), Check("disk", WARN, "1 GiB", "5 GiB", "free some")]
    assert is_fit(checks)
    text = describe_checks([*checks, Check("pyspark", FAIL, "3.5.1", "4.2.0", "pip install pyspark==4.2.0")])
    assert "ok    java" in text
    assert "-> free some" in text
    assert "FAIL  pyspark  3.5.1  (needed: 4.2.0)" in text
    assert "-> pip install pyspark==4.2.0" in text
    assert text.endswith("the chain cannot run until every FAIL is mended")
