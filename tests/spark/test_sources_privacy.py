"""Hidden ids from end to end: nothing in a lake holds one as found, and all else is as without `source.privacy`."""

import hmac
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from recspark.contracts.hidden_ids import fingerprint_of
from recspark.errors import SourceError
from recspark.pipeline.closing import print_closing
from recspark.sources.edges import map_edges
from recspark.sources.job import ingest, read_rows
from recspark.sources.mapping import map_rows
from recspark.sources.privacy import hide_edges, hide_events
from tests.helpers.increments import build
from tests.helpers.sources import make_run, rows_and_record, write_lines

pytestmark = pytest.mark.spark

KEY, OTHER_KEY = "0123456789abcdef-of-the-lake", "fedcba9876543210-of-nobody"
PRIVACY = {"key": "${env:ID_KEY}"}
COLUMNS = {"user_id": "u", "item_id": "i", "ts": "t", "weight": "w", "basket_id": "b"}
RULES = [
    {"name": "tests", "column": "u", "starts_with": "test-"},
    {"name": "called", "column": "note", "matches": "call .*"},
    {"name": "same_line", "duplicates": True},
]
HEADER = "u,i,t,w,b,note"
DAY_1 = [
    "anna@example.org,i1,2026-01-01T08:00:00,1,receipt-anna-1,",
    "anna@example.org,i2,2026-01-01T08:01:00,1,receipt-anna-1,",
    "anna@example.org,i2,2026-01-01T08:01:00,1,receipt-anna-1,",
    "anna@example.org,i1,2026-01-01T08:02:00,1,receipt-anna-1,",
    "bob@example.org,i1,2026-01-01T09:00:00,1,receipt-bob-1,from 10.1.2.3",
    "bob@example.org,i2,2026-01-01T09:00:30,1,receipt-bob-1,",
    "bob@example.org,i3,2026-01-01T09:00:31,1,receipt-bob-1,",
    *(f"user{n}@example.org,i{n % 3 + 1},2026-01-01T1{n}:30:00,1,receipt-{n},quiet" for n in range(8)),
    "test-eve@example.org,i1,2026-01-01T09:00:00,1,receipt-eve,",
    "dora@example.org,i1,2026-01-01T09:00:00,1,receipt-dora,call +4930123456",
    "anna@example.org,,2026-01-01T10:00:00,1,receipt-anna-2,from 10.1.2.3",  # missing_item_id
    "i3,i3,bob@example.org,1,receipt-bob-2,",  # unreadable_time: the columns have moved
    "bob@example.org,i3,2026-01-01T10:00:00,carla@example.org,receipt-bob-2,",  # unreadable_weight
    f"{'long' * 400}@example.org,i1,2026-01-01T10:00:00,1,b,",  # long_user_id
    "fay\x07@example.org,i1,2026-01-01T10:00:00,1,b,",  # invalid_user_id
    "  ,i1,2026-01-01T10:00:00,1,receipt-of-none,",  # blank_user_id
    "carla@example.org,i1",  # unparsable_line
]
DAY_2 = [
    "anna@example.org,i3,2026-01-02T08:00:00,1,receipt-anna-3,",
    "anna@example.org,i2,2026-01-01T08:01:00,1,receipt-anna-1,",  # a duplicate of day 1
    "gil@example.org,i1,2026-01-02T08:00:00,1,receipt-gil,",
    "gil@example.org,i3,2026-01-02T08:00:09,1,receipt-gil,",
    "hal@example.org,i2,soon,1,receipt-hal,",
]
SECRETS = ["example.org", "receipt-", "from 10.1", "4930123456", "quiet", KEY, OTHER_KEY]
"""What none may hold: parts of all ids, of columns that are not mapped, and the keys."""


def hidden(text, key=KEY):
    return hmac.new(key.encode(), text.encode(), "sha256").hexdigest()


def texts_under(folder):
    """All files as texts: Parquet decoded, all others as they are."""
    for path in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
        yield path, path.read_bytes().decode("latin-1")
        if path.suffix == ".parquet":
            yield path, str(pq.read_table(path).to_pylist())


def assert_holds_no_secret(folder):
    checked = 0
    for path, text in texts_under(folder):
        assert not [secret for secret in SECRETS if secret in text], path
        checked += 1
    assert checked > 20


def show_cases(outcome):
    """Counts and tables but for what hangs on ids."""
    tables = outcome["tables"]
    events = sorted((e["item_id"], e["ts"], e["weight"]) for e in tables["events"])
    names = {i["item_idx"]: i["item_id"] for i in tables["items"]}
    sessions = sorted((s["start_ts"], [names[idx] for idx in s["item_idx"]]) for s in tables["sessions"])
    reasons = {stage: sorted(reason for reason, _ in rows) for stage, rows in outcome["refused"].items()}
    counted = ("rows_in", "kept", "dropped", "quarantined", "days")
    counts = {name: outcome["records"]["ingest"].counts[name] for name in counted}
    return events, sessions, reasons, counts


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.setenv("ID_KEY", KEY)
    log, plans = tmp_path / "log", tmp_path / "plans.csv"
    write_lines(log / "1.csv", HEADER, *DAY_1)
    write_lines(plans, "login,plan", "anna@example.org,gold", "bob@example.org,free", ",none")
    source = {"kind": "files", "path": str(log), "format": "csv", "columns": COLUMNS, "rules": RULES}
    feature = {"name": "plan", "of": "user", "path": str(plans), "key": "login", "column": "plan"}

    def make(lake, **more):
        many = {"max_bad_ratio": 0.9}
        return make_run(str(tmp_path / lake), source | many | more, features=[feature])

    return make


def test_no_file_of_a_lake_holds_an_id_and_all_else_is_as_without(spark, plan, tmp_path, capfd, monkeypatch):
    first = build(spark, plan("private", privacy=PRIVACY))
    _check_quarantine(dict(first["refused"]["ingest"]))
    write_lines(tmp_path / "log" / "2.csv", HEADER, *DAY_2)
    run = plan("private", privacy=PRIVACY)
    grown = build(spark, run)
    facts = grown["records"]["ingest"].facts
    assert facts["built_from"]["rows_read"] == len(DAY_2)
    assert facts["id_key"] == {"variable": "ID_KEY", "fingerprint": fingerprint_of(KEY.encode())}
    assert "built_from" in grown["records"]["sessions"].facts
    ids = {u["user_id"]: u["user_idx"] for u in first["tables"]["users"]}
    assert ids.items() <= {u["user_id"]: u["user_idx"] for u in grown["tables"]["users"]}.items()
    print_closing(run, ["run.yaml"])

    plain = build(spark, plan("plain"))  # both days at once
    assert show_cases(grown) == show_cases(plain)
    twins = {(e["item_id"], e["ts"]): e for e in grown["tables"]["events"]}
    for event in plain["tables"]["events"]:
        twin = twins[event["item_id"], event["ts"]]
        assert (twin["user_id"], twin["basket_id"]) == (hidden(event["user_id"]), hidden(event["basket_id"]))
    features = {u["user_id"]: u["f_plan"] for u in grown["tables"]["users"]}
    assert features[hidden("anna@example.org")] == "gold"
    assert sorted(filter(None, features.values())) == ["free", "gold"]

    monkeypatch.setenv("ID_KEY", OTHER_KEY)
    rotated = plan("private", privacy=PRIVACY)
    ingest(spark, rotated)
    events, record = rows_and_record(rotated, "events")
    assert "built_from" not in record.facts
    assert {e["user_id"] for e in events} == {hidden(e["user_id"], OTHER_KEY) for e in plain["tables"]["events"]}
    assert_holds_no_secret(tmp_path / "private")
    with pytest.raises(AssertionError):  # the scan finds what is there
        assert_holds_no_secret(tmp_path / "plain")
    said = "".join(capfd.readouterr())
    assert "rows in" in said
    assert not [secret for secret in SECRETS if secret in said]


def _check_quarantine(raw):
    """The rows by reason: ids hidden, what cannot be read by its shape, the rest hidden as one."""
    assert sorted(raw) == [
        "blank_user_id", "invalid_user_id", "long_user_id", "missing_item_id", "unparsable_line", "unreadable_time",
        "unreadable_weight",
    ]  # fmt: skip
    assert json.loads(raw["missing_item_id"]) == {
        "u": hidden("anna@example.org"), "i": None, "t": "2026-01-01T10:00:00", "w": "1", "b": hidden("receipt-anna-2"),
        "_others": hidden('{"note":"from 10.1.2.3"}'),
    }  # fmt: skip
    assert json.loads(raw["unreadable_time"])["t"] == "xxx@xxxxxxx.xxx"
    assert json.loads(raw["unreadable_weight"])["w"] == "xxxxx@xxxxxxx.xxx"
    assert json.loads(raw["blank_user_id"])["u"].strip() == ""
    assert raw["unparsable_line"] == f"hmac-sha256 {hidden('carla@example.org,i1')}, 20 bytes"


def test_given_ids_json_and_items_are_hidden_too(spark, lake, tmp_path, monkeypatch):
    monkeypatch.setenv("ID_KEY", KEY)
    path = write_lines(
        tmp_path / "log.jsonl",
        '{"id": "anna-1", "u": "anna", "i": "secret-a", "t": 1767225600, "kind": "view"}',
        '{"id": "anna-1", "u": "anna", "i": "secret-a", "t": 1767225601, "kind": "view"}',  # repeated_event_id
        '{"id": "7-1", "u": 7, "i": "secret-b", "t": 1767225600}',
        '{"id": " ", "u": "anna", "i": "secret-a", "t": 1767225600}',  # missing_event_id
        '{"id": "anna-2", "u": "anna", "i": "secret-a", "t": 1767225600',  # unparsable_line
        '["anna"]',  # unparsable_line
    )
    columns = {"user_id": "u", "item_id": "i", "ts": "t", "event_id": "id", "event_type": "kind"}
    source = {"kind": "files", "path": str(path), "format": "jsonl", "columns": columns}
    source |= {"timestamp_format": "epoch_seconds", "privacy": PRIVACY | {"item_ids": "hmac"}}
    run = make_run(lake, source | {"max_bad_ratio": 0.9})
    rows = read_rows(spark, run)
    mapped = map_rows(hide_events(rows, run.config.source), run.config.source, run.config.source.columns)
    plans = mapped._jdf.queryExecution().toString()
    assert "hide(" in plans  # the function stands there, what it holds does not
    assert KEY not in plans
    found = mapped.toArrow().to_pylist()
    kept = sorted((e["user_id"], e["item_id"], e["event_id"]) for e in found if e["reason"] is None)
    assert kept == sorted((hidden(u), hidden(i), hidden(e)) for u, i, e in [("anna", "secret-a", "anna-1"), ("7", "secret-b", "7-1")])  # fmt: skip  # noqa: E501
    reasons = sorted(e["reason"] for e in found if e["reason"])
    assert reasons == ["missing_event_id", "repeated_event_id", "unparsable_line", "unparsable_line"]
    assert not [word for word in ("anna", "secret") if word in str(found)]
    strict = make_run(lake, source)
    with pytest.raises(SourceError, match=r"4 of 6 rows .* would be quarantined") as caught:
        build(spark, strict)
    assert "anna" not in str(caught.value)


def test_nodes_of_an_edge_list_are_hidden(spark, lake, tmp_path, monkeypatch):
    monkeypatch.setenv("ID_KEY", KEY)
    path = write_lines(tmp_path / "e.csv", "src,dst,weight", "ann,bob,2", "bob,ann,n/a", ",ann,1", "ann,ann,1", "ann")
    source = {"kind": "edges", "path": str(path), "format": "csv", "directed": True, "weight_column": "weight"}
    run = make_run(lake, source | {"privacy": PRIVACY | {"item_ids": "hmac"}})
    rows = hide_edges(read_rows(spark, run), run.config.source)
    found = map_edges(rows, run.config.source).toArrow().to_pylist()
    assert not [word for word in ("ann", "bob", "n/a") if word in str(found)]
    by_reason = {e["reason"] or e["dropped_by"]: e for e in found}
    assert set(by_reason) == {None, "unreadable_weight", "missing_src", "self_loop", "unparsable_line"}
    kept = by_reason[None]
    assert (kept["src"], kept["dst"], kept["weight"]) == (hidden("ann"), hidden("bob"), 2.0)
