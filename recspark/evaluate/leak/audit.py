"""All checks of one run, in the order of the data's flow.

events -> sessions, histories -> items, users -> graphs -> walks -> vectors

What may be known is counted once, from the train parts of `user_histories`, which are held against `events` themselves;
everything later is held against that. None of the code that wrote the tables is used. Features carry no time and are
not looked at; nor is what a warm start's model had learned, which training compares by its split.
"""

from collections.abc import Mapping
from dataclasses import replace

from recspark.evaluate.inputs import read_num_events
from recspark.evaluate.leak import graph, model, negatives, sessions, vocabulary, walks
from recspark.evaluate.leak.events import check_events
from recspark.evaluate.leak.histories import TrainParts, scan_histories
from recspark.evaluate.leak.inputs import Audited, check_inputs
from recspark.evaluate.leak.report import NOTHING_HELD_OUT, Check, LeakReport, not_applicable
from recspark.evaluate.leak.split import Split
from recspark.evaluate.user_tower_file import find_event_columns
from recspark.lake.arrow import TableAt, count_rows


def audit(audited: Audited) -> LeakReport:
    """Every check that the run's tables allow, and the reason for each that they do not.

    Reads each table once or twice in batches, columns by need. Holds about 50 bytes an item, its id, 24 bytes a
    user, and samples of bounded numbers of users, edges and steps.

    Raises: LakeError when a table is damaged, or tables are of different builds.
    """
    tables, split, train = audited.tables, None, None
    checks: list[Check] = []
    if audited.has_events:
        split = Split.from_section(tables["sessions"].record.config["split"])
        train, checks = _check_events(tables, split)
    for name, stage in (("item_graph", "graph"), ("item_knn_graph", "item_knn_graph")):
        has_graph = name in tables and train is not None
        checks += graph.check_graph(name, tables, train) if has_graph else _say_absent(audited, stage)  # type: ignore[arg-type]
    if "item_graph_edges" in tables:
        edges = tables["item_graph_edges"]
        checks.append(check_inputs("graph_edges.inputs", edges, edges.record.inputs, tables, {"item_graph", "items"}))
    if "als_factors" in tables:
        factors = tables["als_factors"]
        checks.append(check_inputs("als.inputs", factors, factors.record.inputs, tables, {"user_histories"}))
    item_events = train.item_events if train else read_num_events(tables["items"])
    checks += walks.check_walks(tables, item_events) if "walks" in tables else _say_absent(audited, "walks")
    has_vectors = "item_embeddings" in tables
    checks += model.check_model(audited, item_events, train) if has_vectors else _say_absent(audited, "train")
    return LeakReport(audited.lake, split.describe() if split else NOTHING_HELD_OUT, tuple(checks))


def _check_events(tables: Mapping[str, TableAt], split: Split) -> tuple[TrainParts, list[Check]]:
    """(what may be known, the checks of the tables that come straight from events)."""
    made = tables["sessions"]
    num_items, num_users = (count_rows(tables[name]) for name in ("items", "users"))
    columns = find_event_columns(tables["item_embeddings"]) if "item_embeddings" in tables else []
    train, of_histories = scan_histories(tables["user_histories"], split, num_items, num_users, columns)
    checks = [
        check_inputs("sessions.inputs", made, made.record.inputs, tables, {"events"}),
        *check_events(tables, split, train),
        *of_histories,
        *sessions.check_sessions(made, split, train),
        *vocabulary.check_items(tables["items"], split, train),
        vocabulary.check_users(tables["users"], train),
    ]
    if "user_negatives" in tables:
        checks += negatives.check_negatives(tables, split, train)
    has_times = made.record.facts.get("order", "time") == "time"  # else they are places, or all alike
    return train, checks if has_times else [replace(check, latest_us=None) for check in checks]


def _say_absent(audited: Audited, stage: str) -> list[Check]:
    return [not_applicable(stage, audited.absent[stage])]
