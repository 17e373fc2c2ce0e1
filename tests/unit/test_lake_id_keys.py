"""A lake hides ids from its first version to its last, or none."""

import pytest

from recspark.errors import LakeError
from recspark.lake.id_keys import check_ids
from tests.helpers.tiny_lake import plan_tiny, write_stage

OFF = None
USERS = {"key": "${env:ID_KEY}"}
ALL = USERS | {"item_ids": "hmac"}


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.setenv("ID_KEY", "k" * 32)

    def make(privacy):
        columns = {"ts": "ts"}
        source = {"kind": "files", "path": "x", "format": "csv", "columns": columns, "privacy": privacy}
        return plan_tiny(tmp_path, source=source)

    return make


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (OFF, USERS, r"table events holds user_ids as found, .* hidden ids need a lake of their own: set paths\.lake"),
        (OFF, ALL, "table events holds item_ids and user_ids as found"),
        (USERS, ALL, "table events holds item_ids as found"),
        (USERS, OFF, r"holds user_ids hidden, and this config would add them as found; give it the source\.privacy"),
        (ALL, USERS, "holds item_ids hidden"),
    ],
)
def test_a_lake_of_the_other_kind_is_refused(plan, before, now, message):
    check_ids(plan(now))
    write_stage(plan(before), "ingest", {})
    check_ids(plan(before))
    with pytest.raises(LakeError, match=message):
        check_ids(plan(now))


def test_another_key_is_no_mistake(plan, monkeypatch):
    write_stage(plan(USERS), "ingest", {})
    monkeypatch.setenv("ID_KEY", "n" * 32)
    check_ids(plan(USERS))
