"""What keeps ids from being ids: the tests, each with the reason that the quarantine gives.

"  "   ->   blank_user_id
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

# Control characters (NUL among them) and the mark that stands for bytes that were no UTF-8.
_INVALID_CHARACTER = r"[\p{Cc}\uFFFD]"
_BLANK = r"(?U)\A\s*\z"
_FLAW = "_flaw_"


def is_blank(text: Column) -> Column:
    """Whether a text holds nothing but white space; NULL of NULL."""
    return text.rlike(_BLANK)


def id_problems(name: str, max_bytes: int, value: Column) -> list[tuple[Column, str]]:
    """(test, reason) pairs for ids that messages call ``name``."""
    return [
        (value.isNull(), f"missing_{name}"),
        (is_blank(value), f"blank_{name}"),
        (F.octet_length(value) > max_bytes, f"long_{name}"),
        (value.rlike(_INVALID_CHARACTER), f"invalid_{name}"),
    ]


def first_problem(problems: list[tuple[Column, str]]) -> Column:
    """The reason of the first test that holds, NULL where none does."""
    return F.coalesce(*[F.when(test, F.lit(reason)) for test, reason in problems])


def find_flaw(rows: DataFrame, name: str, max_bytes: int) -> Column:
    """Why the column ``name`` of rows holds no id: as judged before ids were hidden, where they were."""
    flaw = flaw_name(name)
    return F.col(flaw) if flaw in rows.columns else first_problem(id_problems(name, max_bytes, F.col(name)))


def flaw_name(name: str) -> str:
    """Where the flaw of a hidden id stands."""
    return f"{_FLAW}{name}"
