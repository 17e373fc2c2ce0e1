"""Drop rules: each against a filter in plain Python, and the first that takes a row counts it."""

import itertools
import re

import pyarrow as pa
import pytest

from recspark.config.source import DropRule
from recspark.errors import SourceError
from recspark.sources.job import ingest
from recspark.sources.rows import as_rows
from recspark.sources.rules import add_dropped_by
from tests.helpers.sources import has_tables, make_run, write_lines

pytestmark = pytest.mark.spark

VALUES = [None, "", "  ", "C1", "c1", "12345", "12345A", "POST", "a\n", "-3", "7.5", "1e3", "NaN", "x12345"]
EXPECTED = {
    "is_null": (True, lambda v: v is None or not v.strip()),
    "starts_with": ("C", lambda v: v is not None and v.startswith("C")),
    "matches": ("[a-z].*", lambda v: v is not None and bool(re.fullmatch("[a-z].*", v))),
    "not_matches": ("[0-9]{5}.*", lambda v: v is not None and not re.fullmatch("[0-9]{5}.*", v)),
    "one_of": (("POST", "C1"), lambda v: v in ("POST", "C1")),
    "less_than": (7.5, lambda v: v == "-3"),
    "greater_than": (7.0, lambda v: v in ("7.5", "1e3", "12345")),
}
HARMLESS = {"less_than": "7.5", "greater_than": "7"}


def dropped_by(spark, table, rules):
    rows = as_rows(spark.createDataFrame(table)).selectExpr("*", "row.u as user_id", "row.i as item_id")
    found = add_dropped_by(rows, [DropRule.model_validate(r) for r in rules])
    return [(r["row"], r["dropped_by"]) for r in found.toArrow().to_pylist()]


def test_each_test_takes_what_it_says(spark):
    """All rules at once, each on a copy of the value in a column of its own."""
    rows = []
    for name, value in itertools.product(EXPECTED, VALUES):
        harmless = {other: HARMLESS.get(other, "12345") for other in EXPECTED}
        rows.append({"u": "u", "i": "i", "rule": name, "value": value, **harmless, name: value})
    rules = [{"name": name, "column": name, name: setting} for name, (setting, _) in EXPECTED.items()]
    found = dropped_by(spark, pa.Table.from_pylist(rows), rules)
    assert len(found) == len(rows)
    for row, name in found:
        expected = row["rule"] if EXPECTED[row["rule"]][1](row["value"]) else None
        assert name == expected, row


def test_the_first_rule_counts_and_of_identical_rows_one_stays(spark):
    same = {"u": "1", "i": "a", "x": None}
    table = pa.Table.from_pylist([
        same, same, same,
        {"u": "1", "i": "a", "x": "a"},  # differs from `same` in a NULL only
        {"u": "2", "i": "gift", "x": None}, {"u": "2", "i": "gift", "x": None},
        {"u": "3", "i": "post", "x": None}, {"u": "3", "i": "post", "x": None},
    ])  # fmt: skip
    rules = [
        {"name": "gift", "column": "i", "one_of": ["gift"]},
        {"name": "twice", "duplicates": True},
        {"name": "post", "column": "i", "one_of": ["post"]},
        {"name": "never", "column": "u", "one_of": ["1"]},
    ]
    names = sorted((row["u"], str(row["x"]), name) for row, name in dropped_by(spark, table, rules))
    assert names == [
        ("1", "None", "never"), ("1", "None", "twice"), ("1", "None", "twice"), ("1", "a", "never"),
        ("2", "None", "gift"), ("2", "None", "gift"), ("3", "None", "post"), ("3", "None", "twice"),
    ]  # fmt: skip


def test_without_rules_nothing_is_dropped(spark):
    assert dropped_by(spark, pa.table({"u": ["1"], "i": ["2"]}), [])[0][1] is None


@pytest.mark.parametrize("test", ["matches", "not_matches"])
@pytest.mark.parametrize("pattern", ["[a", "a)|(b", "(?x)a # b"])
def test_a_pattern_that_java_cannot_compile_is_named(spark, lake, tmp_path, test, pattern):
    path = write_lines(tmp_path / "a.csv", "u,i", "1,a")
    rules = [{"name": "fine", "column": "u", "matches": r"\p{L}++"}, {"name": "odd", "column": "u", test: pattern}]
    columns = {"user_id": "u", "item_id": "i", "split": "u"}
    source = {"kind": "files", "path": str(path), "format": "csv", "columns": columns, "rules": rules}
    message = rf"^source\.rules \(odd\): {re.escape(repr(pattern))} is no regular expression \(.+\); expected Java's"
    with pytest.raises(SourceError, match=message):
        ingest(spark, make_run(lake, source))
    assert not has_tables(lake)
