"""Arithmetic on the counts of commit records: nested dictionaries of numbers, a name that is absent counts 0."""

from typing import Any


def add_counts(*counts: dict[str, Any]) -> dict[str, Any]:
    """``{"kept": 3, "dropped": {"rare": 1}}`` and ``{"kept": 2}`` to ``{"kept": 5, "dropped": {"rare": 1}}``.

    Inner names stand sorted, and only where they count something.
    """
    return _fold(counts, [1] * len(counts))


def subtract_counts(counts: dict[str, Any], less: dict[str, Any]) -> dict[str, Any]:
    """The counts without those of a part."""
    return _fold((counts, less), [1, -1])


def _fold(counts: "tuple[dict[str, Any], ...]", signs: list[int]) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for name in dict.fromkeys(name for one in counts for name in one):
        values = [one.get(name, 0) for one in counts]
        if any(isinstance(value, dict) for value in values):
            inner = _fold(tuple(value or {} for value in values), signs)
            total[name] = {key: inner[key] for key in sorted(inner) if inner[key]}
        else:
            total[name] = sum(sign * value for sign, value in zip(signs, values, strict=True))
    return total
