"""What the plan of a graph says of users: read from the few files that can hold the biggest."""

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from recspark.contracts import columns as c
from recspark.contracts.commits import CommitRecord
from recspark.graph.report import show_biggest_users
from recspark.lake import arrow
from recspark.lake.arrow import TableAt, table_uri


def write_users(lake, num_events, num_files):
    """A table `users` of so many files; what the sessions stage's marker says of it."""
    places = np.array_split(np.arange(len(num_events)), num_files)
    for own in places:
        rows = pa.table(
            {
                c.USER_IDX: pa.array(own, pa.int32()),
                c.USER_ID: [f"u{i}" for i in own],
                c.NUM_EVENTS: pa.array(np.asarray(num_events)[own], pa.int64()),
            }
        )
        write_deltalake(table_uri(str(lake), "users"), rows, mode="append")
    record = CommitRecord(
        stage="sessions", key="key", run_id="run", is_marker=True, code_version="0", tables={"users": num_files - 1}
    )
    return TableAt(str(lake), "sessions", 0, record)


@pytest.mark.parametrize("num_files", [1, 4, 5, 9])
def test_the_biggest_users_are_named_in_order_whatever_files_hold_them(tmp_path, num_files):
    num_events = np.random.default_rng(7).integers(0, 40, 200)
    num_events[[3, 150]] = 1_234
    source = write_users(tmp_path, num_events.tolist(), num_files)
    best = sorted(range(200), key=lambda user: (-num_events[user], user))[:5]
    assert show_biggest_users(source) == "; ".join(f"user {user}: {num_events[user]:,} events" for user in best)


def test_files_that_cannot_hold_them_are_not_read(tmp_path, monkeypatch):
    source = write_users(tmp_path, [*range(100, 160), *range(40)], 10)  # the last four files hold less than all others
    dropped = pa.table(arrow.open_table(str(tmp_path), "users").get_add_actions(flatten=True)).to_pylist()
    small = [row["path"] for row in dropped if row[f"max.{c.NUM_EVENTS}"] < 110]
    assert len(small) == 5
    for path in small:
        (tmp_path / "tables" / "users" / path).unlink()
    assert show_biggest_users(source).startswith("user 59: 159 events; user 58: 158 events; ")


def test_an_edge_list_has_no_users(tmp_path):
    source = TableAt(str(tmp_path), "item_graph", 0, write_users(tmp_path, [1], 1).record)
    source.record.tables.clear()
    assert show_biggest_users(source) == ""
