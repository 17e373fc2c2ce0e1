"""The report of a tiny run: rows that add up, rows that do not, metrics beside the baselines."""

import json

import pytest

from recspark.lake.arrow import find_done
from recspark.pipeline.evaluate_stage import evaluate
from recspark.report.metrics_table import choose_k, describe_metrics, list_findings
from recspark.report.summary import balance_of, build_report, describe_report, format_number
from tests.helpers.tiny_lake import plan_tiny, write_embeddings, write_graph, write_sessions, write_stage

INGEST = {
    "rows_in": 1100,
    "kept": 1000,
    "dropped": {"cancelled": 60, "duplicates": 30},
    "quarantined": {"bad_time": 10},
    "days": 7,
}
SESSIONS = {"events_in": 1000, "kept": 995, "dropped": {"bot_users": 3}, "quarantined": {}, "collapsed": 40}
METRICS = {
    "skip_gram": {"recall@10": 0.2, "recall@20": 0.3, "ndcg@20": 0.2, "hr@20": 0.4, "mrr@20": 0.1, "coverage@20": 0.5},
    "item_knn": {"recall@10": 0.1, "recall@20": 0.25, "ndcg@20": 0.2, "hr@20": 0.4, "mrr@20": 0.1, "coverage@20": 0.6},
    "popularity": {"recall@10": 0.1, "recall@20": 0.1, "ndcg@20": 0, "hr@20": 0.2, "mrr@20": 0, "coverage@20": 0.01},
    "oracle": {"recall@10": 0.2, "recall@20": 0.4, "ndcg@20": 0.3, "hr@20": 0.5, "mrr@20": 0.2, "coverage@20": 0.9},
}


def test_balance_sums_rules_and_reasons():
    assert balance_of("ingest", INGEST)["missing"] == 0
    assert balance_of("ingest", INGEST)["rows_in"] == 1100
    assert balance_of("sessions", SESSIONS)["missing"] == 2
    assert balance_of("sessions", {"events_in": 5, "kept": 6})["missing"] == -1


@pytest.fixture
def run(tmp_path):
    run = plan_tiny(tmp_path)
    write_stage(run, "ingest", {}, counts=INGEST)
    users = [([0], [], [], [1]), ([1], [], [], [2])]
    write_sessions(run, [3, 2, 1], users, counts=SESSIONS)
    write_embeddings(run, {0: [1.0, 0.0], 1: [0.9, 0.1], 2: [0.0, 1.0]})
    return run


def test_an_unfinished_run_reports_what_is_done(run):
    report = build_report(run.lake, run.stages)
    assert list(report["stages"]) == ["ingest", "sessions", "train"]
    assert report["evaluation"] is None
    assert report["stages"]["ingest"] == {
        "id": run.stages["ingest"].id,
        "version": 0,
        "run_id": run.run_id,
        "inputs": {},
        "counts": INGEST,
        "facts": {},
    }


def test_the_text_accounts_for_every_row(run):
    text = describe_report(build_report(run.lake, run.stages))
    assert "  ingest           1,100 rows in = 1,000 kept + 90 dropped + 10 quarantined\n" in text
    assert "dropped: cancelled 60, duplicates 30\n" in text
    assert "quarantined: bad_time 10\n" in text
    assert "  sessions         1,000 rows in = 995 kept + 3 dropped + 0 quarantined\n" in text
    assert "DOES NOT ADD UP: 2 rows unaccounted for" in text
    assert text.count("DOES NOT ADD UP") == 1
    assert "  sessions         collapsed 40" in text


def test_a_finished_run_shows_the_models_on_the_same_users(run):
    write_graph(run, "item_knn_graph", {0: [(2, 1.0)]})
    evaluate(run)
    report = json.loads(json.dumps(build_report(run.lake, run.stages)))
    _, record = find_done(run.lake, run.stages["evaluate"])
    evaluation = report["evaluation"]
    assert evaluation["k"] == 3
    assert evaluation["users"] == record.counts
    assert list(evaluation["metrics"]) == ["skip_gram", "item_knn", "popularity"]
    text = describe_report(report)
    assert "evaluation on split test, history train+valid + context, search exact, seen items left out:" in text
    assert "2 users of 2 eligible (2 warm, 0 cold), 2 relevant items (0 unknown" in text
    assert "recall@3" in text
    assert "skip_gram has 1.00 x the recall@3 of popularity" in text


def test_the_table_is_aligned_and_shows_every_model():
    users = {
        "users": 7, "users_eligible": 9, "users_warm": 6, "users_cold": 1, "relevant_items": 20,
        "relevant_items_unknown": 2, "users_without_held_out_items": 3, "users_without_history": 4,
        "users_with_all_relevant_seen": 5,
    }  # fmt: skip
    columns = ["recall@20", "coverage@20"]
    setting = {"split": "test", "history": "train", "search": "index", "mask_seen": False}
    text = describe_metrics({**setting, "users": users, "columns": columns, "metrics": METRICS, "findings": ["so"]})
    header, *rows = text.split("\n\n")[1].splitlines()
    assert header == "  model          recall@20   coverage@20"
    assert rows[0] == "  skip_gram         0.3000        0.5000"
    assert [row.split()[0] for row in rows] == list(METRICS)
    assert len({len(row) for row in (header, *rows)}) == 1
    assert "history train + context, search index, seen items listed too" in text
    assert "3 users without test items, 4 without history, 5 with nothing relevant that is unseen" in text


def test_findings_compare_with_oracle_and_baselines():
    assert list_findings(METRICS, "skip_gram", 20) == [
        "skip_gram reaches 75% of the planted oracle's recall@20",
        "skip_gram has 3.00 x the recall@20 of popularity",
        "skip_gram has 1.20 x the recall@20 of item_knn",
    ]
    more = {"rp3beta": {"recall@20": 0.32}, **{name: METRICS[name] for name in ("item_knn", "popularity", "oracle")}}
    assert list_findings(more, "rp3beta", 20)[1:] == [
        "rp3beta has 3.20 x the recall@20 of popularity",
        "rp3beta has 1.28 x the recall@20 of item_knn",
    ]
    assert list_findings(more | {"ease": {"recall@20": 0.2}}, "rp3beta", 20)[3] == (
        "rp3beta has 1.60 x the recall@20 of ease"
    )
    alone = {"skip_gram": METRICS["skip_gram"], "popularity": {"recall@20": 0.0}}
    assert list_findings(alone, "skip_gram", 20) == []


def test_twenty_is_shown_where_it_was_measured():
    assert choose_k({"recall@10": 0, "recall@20": 0, "recall@50": 0}) == 20
    assert choose_k({"recall@5": 0, "recall@100": 0}) == 100


def test_numbers_are_readable():
    assert format_number(1234567) == "1,234,567"
    assert format_number(0.123456) == "0.1235"
    assert format_number({"train": 1000, "test": 2}) == "(train 1,000, test 2)"
    assert format_number("2026-01-05") == "2026-01-05"
    assert format_number(True) == "True"
