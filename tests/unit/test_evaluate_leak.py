"""The leak audit on tiny lakes: clean ones pass under all settings, each leak is caught by the check of its name."""

import copy
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import yaml

from recspark import cli
from recspark.config.graph import GraphConfig
from recspark.contracts import columns as c
from recspark.errors import DataLeakError, LakeError
from recspark.evaluate.leak import graph, histories, model, walks
from recspark.evaluate.leak.kernel import count_support
from recspark.evaluate.leak.report import CLEAN, NOT_APPLICABLE
from recspark.lake.arrow import find_done
from recspark.pipeline.side import run_stages
from recspark.pipeline.verify import audit_facts, audit_run
from recspark.report.summary import build_report, describe_report
from tests.helpers.graph_oracle import count_pairs, random_units
from tests.helpers.leak_lake import COLD, DAY_US, build_lake, draw_events
from tests.helpers.tiny_lake import plan_tiny, rows_of, write_stage

PREFIXES = (c.NUM_TRAIN, c.NUM_VALID, c.NUM_CONTEXT)
TIME = {"kind": "time", "cut": "2026-02-01"}
SPLIT = TIME | {"valid": {"kind": "last_k", "k": 1}}
CHECKS = [
    "sessions.inputs", "events.counts", "histories.events", "histories.cut", "histories.valid", "sessions.cut",
    "sessions.items", "sessions.users", "sessions.events", "items.num_events", "items.first_seen", "users.num_events",
    "graph.inputs", "graph.items", "graph.count", "item_knn_graph.inputs", "item_knn_graph.items",
    "item_knn_graph.count", "walks.inputs", "walks.items", "walks.edges", "train.inputs", "train.model", "train.items",
    "train.users",
]  # fmt: skip


def plan(folder, split=SPLIT, **sections):
    columns = {"ts": "ts", "split": "part"}
    source = {"kind": "files", "path": "events.csv", "format": "csv", "columns": columns}
    return plan_tiny(folder, split=split, source=source, walks={"walk_length": 8}, **sections)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A clean lake in a folder of its own."""
    run = plan(tmp_path_factory.mktemp("clean"))
    lake = build_lake(run, draw_events(run))
    lake.write()
    return lake


@pytest.fixture
def clean(written, tmp_path):
    """A copy of the clean lake, to be changed and written onto."""
    run = plan(tmp_path)
    shutil.copytree(written.run.lake, run.lake)
    return replace(copy.deepcopy(written), run=run)


def leaks_of(lake, onto=None):
    lake.write(onto)
    return {check.name for check in audit_run(lake.run).leaks}


@pytest.mark.parametrize(
    "split",
    [
        TIME,
        SPLIT,
        TIME | {"valid": {"kind": "user_share"}},
        TIME | {"valid": {"kind": "time", "cut": "2026-01-20"}},
        TIME | {"valid": {"kind": "given"}},
        {"kind": "given"},
        {"kind": "given", "valid": {"kind": "user_share"}},
        {"kind": "given", "valid": {"kind": "time", "cut": "2026-01-20"}},
        {"kind": "leave_last_out"},
        {"kind": "leave_last_out", "valid": {"kind": "last_k"}},
    ],
)
def test_a_clean_lake_passes_every_check_under_every_split(tmp_path, split):
    run = plan(tmp_path, split)
    build_lake(run, draw_events(run)).write()
    report = audit_run(run)
    by_event = split["kind"] == "given" or split.get("valid", {}).get("kind") in ("time", "given")
    absent = {"histories.valid"} if by_event else set()
    expected = [(name, NOT_APPLICABLE if name in absent else CLEAN) for name in CHECKS]
    assert [(check.name, check.status) for check in report.checks] == expected
    looked = {check.name: check.rows for check in report.checks if check.status == CLEAN}
    assert min(looked.values()) > 0
    assert looked["histories.events"] > 50
    report.check_clean()


@pytest.mark.parametrize(
    "knobs",
    [
        {"window": 1},
        {"window": 2, "max_session_items": 3},
        {"group": "user", "max_session_items": 4},
        {"group": "user", "window": 2, "distance_decay": 0.5, "min_support": 2},
        {"support": "user"},
        {"max_user_events": 5},
        {"num_neighbours": 3},
    ],
)
def test_clean_graphs_pass_under_all_settings_and_a_count_too_high_does_not(tmp_path, knobs):
    run = plan(tmp_path, graph=knobs)
    clean = build_lake(run, draw_events(run))
    poisoned = copy.deepcopy(clean)
    assert leaks_of(clean) == set()
    edge = max(poisoned.tables["item_graph"], key=lambda row: row["count"][0])
    edge["count"][0] += 10  # above the bound too, where users are cut
    assert leaks_of(poisoned, onto=clean) == {"graph.count"}


def no_pair(lake):
    """Two items with train events that no edge of the run's graph joins."""
    rows = {row["src_idx"]: set(row["dst_idx"]) for row in lake.tables["item_graph"]}
    found = ((a, b) for a in rows for b in rows if a < b and b not in rows[a] and a not in rows[b])
    return next(found)


def cold_idx(lake):
    return lake.row("items", item_id=f"i{COLD}")["item_idx"]


def train_sessions(lake):
    return [row for row in lake.tables["sessions"] if row["split"] == c.TRAIN]


def call_a_test_session_train(lake):
    lake.row("sessions", split=c.TEST)["split"] = c.TRAIN


def stretch_a_session_by_its_offsets(lake):
    train_sessions(lake)[-1]["offset_seconds"][-1] += 40 * 86_400


def count_a_test_event_as_train(lake):
    row = next(r for r in lake.tables["user_histories"] if not r["num_train"])
    row["num_train"] = 1


def validate_on_a_train_item(lake):
    row = next(r for r in lake.tables["user_histories"] if r["num_valid"] and r["num_train"] > 1)
    row["ts"][row["num_train"]] = row["ts"][0] - DAY_US


def exchange_items_of_two_users(lake):
    own = {r["user_idx"]: set(r["item_idx"][: r["num_train"]]) for r in lake.tables["user_histories"]}
    sessions = train_sessions(lake)
    a, b = next(
        (a, b) for a in sessions for b in sessions
        if a["item_idx"][0] not in own[b["user_idx"]] and b["item_idx"][0] not in own[a["user_idx"]]
    )  # fmt: skip
    a["item_idx"][0], b["item_idx"][0] = b["item_idx"][0], a["item_idx"][0]


def repeat_a_session(lake):
    session = next(row for row in train_sessions(lake) if len(set(row["item_idx"])) > 1)
    lake.tables["sessions"] += [session | {"session_id": f"again-{n}"} for n in range(3)]


def count_validation_into_popularity(lake):
    row = next(r for r in lake.tables["user_histories"] if r["num_valid"])
    lake.row("items", item_idx=row["item_idx"][row["num_train"]])["num_events"] += 1


def count_a_users_test_events(lake):
    lake.tables["users"][3]["num_events"] += 1


def see_an_item_late(lake):
    lake.row("items", item_idx=0)["first_seen"] += 40 * DAY_US


def forget_an_event(lake):
    lake.tables["events"].remove(next(e for e in lake.tables["events"] if e["user_id"] == "u4"))


def say_other_inputs(stage, table):
    def change(lake):
        lake.inputs[stage][table] = 5

    return change


def leave_out_an_input(lake):
    del lake.inputs["train"]["walks"]


def train_the_model_on_other_walks(lake):
    lake.model_inputs["walks"] = 5


def add_edge(name, ends, count=1):
    def change(lake):
        src, dst = ends(lake)
        row = lake.row(name, src_idx=src)
        row["dst_idx"].append(dst)
        row["score"].append(0.01)
        row["count"].append(count)

    return change


def count_one_more(name):
    def change(lake):
        lake.tables[name][0]["count"][0] += 1

    return change


def to_cold(lake):
    return 0, cold_idx(lake)


def walk_over(ends):
    def change(lake):
        lake.tables["walks"][0]["walk"][:2] = ends(lake)

    return change


def give_the_cold_item_a_vector(lake):
    row = lake.tables["item_embeddings"][0]
    lake.tables["item_embeddings"].append(row | {"idx": cold_idx(lake), "vector": [0.1, 0.2]})


def give_a_user_without_train_events_a_vector(lake):
    lake.tables["user_embeddings"].append(lake.tables["user_embeddings"][0] | {"idx": 0})


def mix_a_test_item_into_a_user(lake):
    history = next(r for r in lake.tables["user_histories"] if len(r["item_idx"]) > sum(r[n] for n in PREFIXES) > 2)
    vectors = {r["idx"]: np.array(r["vector"]) for r in lake.tables["item_embeddings"]}
    items = [i for i in history["item_idx"] if i in vectors]
    unit = [vectors[i] / np.linalg.norm(vectors[i]) for i in items]
    lake.row("user_embeddings", idx=history["user_idx"])["vector"] = np.mean(unit, axis=0).tolist()


@pytest.mark.parametrize(
    ("poison", "caught_by"),
    [
        (call_a_test_session_train, {"sessions.cut", "sessions.users", "sessions.events"}),
        (stretch_a_session_by_its_offsets, {"sessions.cut"}),
        (count_a_test_event_as_train, {"histories.cut", "histories.events", "events.counts", "users.num_events"}),
        (validate_on_a_train_item, {"histories.valid", "histories.events"}),
        (exchange_items_of_two_users, {"sessions.events"}),
        (repeat_a_session, {"sessions.users", "sessions.events", "graph.count"}),
        (count_validation_into_popularity, {"items.num_events"}),
        (count_a_users_test_events, {"users.num_events"}),
        (see_an_item_late, {"items.first_seen"}),
        (forget_an_event, {"events.counts", "histories.events"}),
        (say_other_inputs("sessions", "events"), {"sessions.inputs"}),
        (say_other_inputs("graph", "sessions"), {"graph.inputs"}),
        (say_other_inputs("item_knn_graph", "items"), {"item_knn_graph.inputs"}),
        (say_other_inputs("walks", "item_graph"), {"walks.inputs"}),
        (say_other_inputs("train", "user_histories"), {"train.inputs"}),
        (leave_out_an_input, {"train.inputs"}),
        (train_the_model_on_other_walks, {"train.model"}),
        (count_one_more("item_graph"), {"graph.count"}),
        (add_edge("item_graph", no_pair), {"graph.count"}),
        (add_edge("item_graph", to_cold, count=0), {"graph.items"}),
        (count_one_more("item_knn_graph"), {"item_knn_graph.count"}),
        (add_edge("item_knn_graph", to_cold), {"item_knn_graph.items", "item_knn_graph.count"}),
        (walk_over(no_pair), {"walks.edges"}),
        (walk_over(to_cold), {"walks.items", "walks.edges"}),
        (give_the_cold_item_a_vector, {"train.items"}),
        (give_a_user_without_train_events_a_vector, {"train.users"}),
        (mix_a_test_item_into_a_user, {"train.users"}),
    ],
)
def test_each_leak_is_caught_by_the_check_of_its_name(written, clean, poison, caught_by):
    poison(clean)
    leaks = leaks_of(clean, onto=written)
    alone = len(caught_by) == 1 and "sessions.events" not in caught_by
    assert leaks == caught_by if alone else leaks >= caught_by


@pytest.mark.parametrize(
    ("split", "caught_by"),
    [
        (TIME, {"histories.events", "events.counts"}),
        ({"kind": "given"}, {"histories.events", "events.counts"}),
        ({"kind": "leave_last_out"}, {"histories.events"}),
    ],
)
def test_a_leak_that_all_tables_agree_on_is_caught_by_the_events(tmp_path, split, caught_by):
    run = plan(tmp_path, split)
    events = draw_events(run)
    source = build_lake(run, events).tables["events"]
    leaked = next(e for e in events if e.part == c.TEST and e.item != COLD and e.user)
    before = [e.ts for e in events if e.user == leaked.user and e.part == c.TRAIN]
    leaked.part = c.TRAIN
    leaked.ts = leaked.ts if split["kind"] != "time" else before[-1] + 1
    lake = build_lake(run, events)
    lake.tables["events"] = source
    assert leaks_of(lake) == caught_by


def test_samples_of_large_tables_are_looked_at_by_the_same_rules(written, clean, monkeypatch):
    for module, name, number in (
        (histories, "MAX_USERS", 12), (graph, "MAX_ROWS", 9), (walks, "MAX_WALKS", 9), (model, "MAX_USERS", 6),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, number)
    lake = clean
    found = {check.name: check for check in audit_run(lake.run).checks}
    assert {check.status for check in found.values()} == {CLEAN}
    num_edges = sum(len(row["dst_idx"]) for row in lake.tables["item_graph"])
    assert 0 < found["graph.count"].rows < found["graph.items"].rows == num_edges
    for row in lake.tables["item_graph"]:
        row["count"] = [count + 1 for count in row["count"]]
    assert leaks_of(lake, onto=written) == {"graph.count"}


def test_support_is_that_of_the_definition():
    for seed, window, max_items in ((1, None, 1000), (2, 1, 1000), (3, 3, 5), (4, None, 4)):
        units = random_units(seed)
        config = GraphConfig(window=window, max_session_items=max_items)
        expected = count_pairs(units, config)[1]
        pairs = [*sorted(expected)[::3], (0, 39)]
        src = sorted({i for i, _ in pairs})
        ptr = np.cumsum([0, *[sum(i == s for i, _ in pairs) for s in src]])
        row_of = np.full(40, -1)
        row_of[src] = np.arange(len(src))
        dst = np.array([j for _, j in sorted(pairs)])
        seen_in, seen_at = np.full((2, 40), -1)
        counted_in, counts = np.full(len(pairs), -1), np.zeros(len(pairs), np.int64)
        for first in range(0, len(units), 50):  # over several calls
            some = units[first : first + 50]
            indptr = np.cumsum([0, *[len(u.items) for u in some]])
            items = np.array([i for u in some for i in u.items], np.int32)
            count_support(
                indptr, items, max_items, window or max_items, row_of, ptr, dst, seen_in, seen_at, counted_in, first,
                counts,
            )  # fmt: skip
        assert counts.tolist() == [expected.get(pair, 0) for pair in sorted(pairs)]


def test_tables_built_again_under_their_key_count_and_those_of_an_increment_do_not(clean):
    run, lake = clean.run, clean
    names = run.stages["sessions"].spec.tables
    again = {name: rows_of(name, lake.tables[name]) for name in names if name in lake.tables}
    same = {"inputs": {"events": 0}, "counts": lake.counts}
    write_stage(run, "sessions", again, **same)
    assert find_done(run.lake, run.stages["sessions"])[0] == 1
    assert audit_run(run).leaks == []
    write_stage(run, "sessions", again, **same, facts={"built_from": {"version": 0}})
    leaks = {check.name: check.found for check in audit_run(run).leaks}
    assert set(leaks) == {"graph.inputs", "item_knn_graph.inputs", "walks.inputs", "train.inputs", "train.model"}
    assert "made of sessions at version 0, the run's is 2; their ids may differ" in leaks["graph.inputs"]


def test_what_a_warm_start_brings_and_zero_vectors_are_no_leak(written, clean):
    give_the_cold_item_a_vector(clean)
    clean.facts["train"] = {"warm_start": {"model_id": "0" * 12}}
    assert leaks_of(clean, onto=written) == set()
    clean.facts["train"] = {}
    clean.tables["item_embeddings"][-1]["vector"] = [0.0, 0.0]
    assert leaks_of(clean, onto=written) == set()


def test_users_are_weighed_as_the_model_says(written, clean):
    lake = clean
    lake.facts["train"] = {"history_decay": 0.5, "history_items": 2}
    assert leaks_of(lake, onto=written) == {"train.users"}
    vectors = {r["idx"]: np.array(r["vector"]) for r in lake.tables["item_embeddings"]}
    for row in lake.tables["user_embeddings"]:
        history = lake.row("user_histories", user_idx=row["idx"])
        last = [vectors[i] / np.linalg.norm(vectors[i]) for i in history["item_idx"][: history["num_train"]]][-2:]
        weights = [0.5, 1.0][-len(last) :]
        row["vector"] = np.average(last, axis=0, weights=weights).tolist()
    assert leaks_of(lake, onto=written) == set()


def test_under_l2_users_are_means_of_plain_vectors(written, clean):
    lake = clean
    lake.facts["train"] = {"metric": "l2"}
    assert leaks_of(lake, onto=written) == {"train.users"}
    vectors = {r["idx"]: np.array(r["vector"]) for r in lake.tables["item_embeddings"]}
    for row in lake.tables["user_embeddings"]:
        history = lake.row("user_histories", user_idx=row["idx"])
        row["vector"] = np.mean([vectors[i] for i in history["item_idx"][: history["num_train"]]], axis=0).tolist()
    assert leaks_of(lake, onto=written) == set()


def test_what_does_not_apply_is_listed_with_the_reason(tmp_path):
    run = plan(tmp_path / "lists", model={"kind": "rp3beta"})
    whole = plan(tmp_path / "lists")
    build_lake(whole, draw_events(whole)).write()
    absent = {check.name: check.found for check in audit_run(run).checks if check.status == NOT_APPLICABLE}
    assert set(absent) == {"graph", "walks", "train"}
    assert absent["train"].startswith("rp3beta ranks lists without vectors")
    edges = plan_tiny(
        tmp_path / "edges", source={"kind": "edges", "path": "e.csv", "format": "csv", "directed": False}, split={},
        evaluate=None,
    )  # fmt: skip
    items = [{"item_idx": i, "item_id": f"i{i}", "num_events": 2 - i // 3, "active": True} for i in range(3)]
    ring = [{"src_idx": i, "dst_idx": [(i + 1) % 3], "score": [1.0], "count": [1]} for i in range(3)]
    write_stage(edges, "ingest", {"items": rows_of("items", items), "item_graph": rows_of("item_graph", ring)})
    steps = [{"epoch": 0, "shard": 0, "start_idx": 0, "walk": [0, 2, 1]}]
    write_stage(edges, "walks", {"walks": rows_of("walks", steps)}, inputs={"item_graph": 0, "items": 0})
    report = audit_run(edges)
    assert {check.name: check.status for check in report.checks} == {
        "graph": NOT_APPLICABLE, "item_knn_graph": NOT_APPLICABLE, "walks.inputs": CLEAN, "walks.items": CLEAN,
        "walks.edges": CLEAN, "train": NOT_APPLICABLE,
    }  # fmt: skip
    assert "held out: nothing: an edge list has no events" in report.describe()


def test_an_evaluation_records_the_audit_and_refuses_to_measure_a_leak(tmp_path):
    run = plan(tmp_path, evaluate={"ks": [3]})
    lake = build_lake(run, draw_events(run))
    count_validation_into_popularity(lake)
    lake.write()
    with pytest.raises(DataLeakError) as caught:
        run_stages(run, ["evaluate"])
    message = str(caught.value)
    assert "items.num_events: items at version 0: expected: num_events counts the events of the train his" in message
    assert "broken 1 times over 20 items, first: item " in message
    assert "run `recspark run CONF` again" in message
    assert caught.value.exit_code == 1
    assert find_done(run.lake, run.stages["evaluate"]) is None

    build_lake(run, draw_events(run)).write()
    run_stages(run, ["evaluate"])
    facts = find_done(run.lake, run.stages["evaluate"])[1].facts["leak_audit"]
    assert facts["clean"] == CHECKS
    assert facts["leaks"] == facts["not_applicable"] == []
    assert facts["latest"] < "2026-02-01" < facts["cut"].removeprefix("events from ")
    assert audit_facts(run)["leak_audit"] == facts
    text = describe_report(build_report(run.lake, run.stages))
    assert f"leak audit: 25 checks clean over {facts['rows']:,} rows (held out: events from 2026-02-01T00:00:00" in text


def test_the_command_lists_every_check_and_ends_with_1_where_something_has_leaked(
    written, clean, tmp_path, monkeypatch, capsys
):
    conf = tmp_path / "run.yaml"
    conf.write_text(yaml.safe_dump(clean.run.config.model_dump(mode="json", exclude_unset=True)))
    monkeypatch.setattr(sys, "argv", ["recspark", "verify", "leak", str(conf)])

    def verify():
        with pytest.raises(SystemExit) as ended:
            cli._main()
        return ended.value.code, *capsys.readouterr()

    code, text, _ = verify()
    assert code == 0
    assert [line.split()[:2] for line in text.splitlines()[:-1]] == [["clean", name] for name in CHECKS]
    walk_over(to_cold)(clean)
    clean.write(onto=written)
    code, text, message = verify()
    assert code == 1
    assert "leak audit: 2 checks FAILED (walks.items, walks.edges)" in text
    assert f"error: {clean.run.lake}: 2 checks of the leak audit failed (held out: events from 2026-02-01T00" in message
    assert "walks.edges: walks at version 1: expected: each step is an edge of item_graph at version 0" in message
    assert f"run `recspark run {conf}` again" in message


def test_tables_of_different_builds_are_an_error_of_the_lake(written, clean):
    clean.tables["walks"][0]["walk"][1] = 99
    clean.write(onto=written)
    with pytest.raises(LakeError, match=r"walks holds walk 99, `items` has 0\.\.19: these tables are not of one build"):
        audit_run(clean.run)
