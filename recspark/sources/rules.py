"""Named drop rules on source rows: which rule takes a row, first come first counted.

    {InvoiceNo: "C536379", CustomerID: NULL} with rules cancelled, no_customer  ->  dropped_by "cancelled"

Nothing is filtered here: the name stands in a column, so that one count tells of all rules.
"""

from collections.abc import Sequence

from pyspark.errors import IllegalArgumentException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.window import Window

from recspark.config.source import DropRule
from recspark.contracts import columns as c
from recspark.errors import SourceError, first_line
from recspark.sources.rows import BAD_LINE, ROW, source_column

DROPPED_BY = "dropped_by"
ROW_HASH_HEX = 32
"""Hex digits of `row_hash`: 128 bits of the SHA-256."""
_VERDICT = "_verdict_"
_COPY = "_copy"
_CONTENT = "_content"
_KNOWN = "_known"
_NUMBER = r"^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*$"


def check_rules(spark: SparkSession, rules: Sequence[DropRule]) -> None:
    """Checks that Java understands the rules' patterns.

    Raises: SourceError naming the rule, the pattern and what is wrong with it.
    """
    assert spark._jvm
    for rule in rules:
        pattern = rule.matches if rule.matches is not None else rule.not_matches
        if pattern is None:
            continue
        try:
            for text in (pattern, _whole(pattern)):
                spark._jvm.java.util.regex.Pattern.compile(text)
        except IllegalArgumentException as error:
            found = first_line(error)
            raise SourceError(
                f"source.rules ({rule.name}): {pattern!r} is no regular expression ({found}); expected Java's syntax, "
                f"where a backslash makes a character such as [ stand for itself"
            ) from error


def add_dropped_by(rows: DataFrame, rules: Sequence[DropRule], earlier_hashes: DataFrame | None = None) -> DataFrame:
    """The rows with ``dropped_by``: the name of the first rule that takes each, NULL for the rest.

    Lines that could not be parsed are left to the quarantine. Of identical rows `duplicates` keeps one: which one
    only shows in ``source_file``, and that is the smallest; where ``earlier_hashes`` hold the row's, none is kept.
    Rows need the text columns ``user_id`` and ``item_id``.
    """
    if any(rule.duplicates for rule in rules):
        rows = _number_copies(rows, earlier_hashes)
    verdicts = [
        F.col(name) if (name := f"{_VERDICT}{place}") in rows.columns else _takes(rule)
        for place, rule in enumerate(rules)
    ]
    names = [F.when(verdict, F.lit(rule.name)) for verdict, rule in zip(verdicts, rules, strict=True)]
    first = F.coalesce(*names, F.lit(None).cast("string"))
    taken = F.when(F.col(BAD_LINE).isNull(), first)
    return rows.withColumn(DROPPED_BY, taken).drop(_COPY)


def judge_rules(rules: Sequence[DropRule]) -> list[Column]:
    """The verdicts of the rules on single rows, by which `add_dropped_by` goes where rows no longer are as found."""
    places = [place for place, rule in enumerate(rules) if rule.duplicates is None]
    return [_takes(rules[place]).alias(f"{_VERDICT}{place}") for place in places]


def struct_text(struct: Column) -> Column:
    """A struct as JSON, NULLs written out: equal texts are equal values, which no hash of nullable columns promises."""
    return F.to_json(struct, {"ignoreNullFields": "false"})


def number_text(text: Column) -> Column:
    """A text's number as double, NULL where it is none: no NaN, no infinity, no Java suffixes such as 5f."""
    return F.when(text.rlike(_NUMBER), text.try_cast("double"))


def content_hash() -> Column:
    """SHA-256 of a row in the common shape, in hex."""
    return F.sha2(F.coalesce(F.col(BAD_LINE), struct_text(F.col(ROW))), 256)


def row_hash() -> Column:
    """What `events` keeps of a row's hash."""
    return F.unhex(F.substring(content_hash(), 1, ROW_HASH_HEX))


def _number_copies(rows: DataFrame, earlier_hashes: DataFrame | None) -> DataFrame:
    # Identical rows share their ids, by which the rows lie together already: no shuffle of its own.
    same = Window.partitionBy(c.USER_ID, c.ITEM_ID, _CONTENT).orderBy(c.SOURCE_FILE)
    numbered = rows.withColumn(_CONTENT, content_hash()).withColumn(_COPY, F.row_number().over(same))
    if earlier_hashes is not None:
        known = earlier_hashes.select(F.lower(F.hex(c.ROW_HASH)).alias(_KNOWN))
        is_known = F.substring(_CONTENT, 1, ROW_HASH_HEX) == F.col(_KNOWN)
        numbered = numbered.join(known, is_known, "left")
        numbered = numbered.withColumn(_COPY, F.col(_COPY) + F.col(_KNOWN).isNotNull().cast("int")).drop(_KNOWN)
    return numbered.drop(_CONTENT)


def _takes(rule: DropRule) -> Column:
    """Whether a rule takes a row; NULL counts as no."""
    if rule.duplicates is not None:
        return F.col(_COPY) > 1 if rule.duplicates else F.lit(False)
    assert rule.column
    text = source_column(rule.column).cast("string")
    if rule.is_null is not None:
        is_missing = text.isNull() | text.rlike(r"^\s*$")
        return is_missing if rule.is_null else ~is_missing
    if rule.starts_with is not None:
        return text.startswith(rule.starts_with)
    if rule.matches is not None:
        return text.rlike(_whole(rule.matches))
    if rule.not_matches is not None:
        return ~text.rlike(_whole(rule.not_matches))
    if rule.one_of is not None:
        return text.isin(*rule.one_of)
    if rule.less_than is not None:
        return number_text(text) < rule.less_than
    assert rule.greater_than is not None
    return number_text(text) > rule.greater_than


def _whole(pattern: str) -> str:
    """The pattern of texts that match as a whole."""
    return rf"\A(?:{pattern})\z"
