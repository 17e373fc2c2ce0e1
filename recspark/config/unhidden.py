"""Ids that ``source.privacy`` would hide at one door and let in as found by another."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recspark.config.schema import RunConfig

_KEY = "source.privacy"


def find_unhidden(config: "RunConfig") -> Iterator[tuple[str, ...]]:
    """(line, keys it hangs on) of each contradiction; none without the section."""
    source = config.source
    if source.privacy is None:
        return
    if source.kind == "synthetic":
        yield f"{_KEY}: the generator's users are nobody's; leave it out", _KEY, "source.kind"
    elif source.kind == "edges" and not source.hidden_columns:
        line = f"{_KEY}: an edge list has no users; set {_KEY}.item_ids to hmac to hide its nodes, or leave it out"
        yield line, _KEY, "source.kind"
    else:
        yield from _find_in_source(config)
        yield from _find_in_features(config)


def _find_in_source(config: "RunConfig") -> Iterator[tuple[str, ...]]:
    """Hidden columns that play another part too, or stand in rules."""
    source = config.source
    hidden = {column: named for named, column in source.hidden_columns.items()}
    shown = {f"source.columns.{part}": column for part, column in source.columns}
    if source.kind == "edges":
        shown = {"source.weight_column": source.weight_column}
    for named, column in shown.items():
        if column in hidden and named not in source.hidden_columns:
            line = f"{named}: is column {column!r}, as {hidden[column]} is, which {_KEY} hides; give it one of its own"
            yield line, _KEY, named, "source.kind"
    for rule in source.rules:
        if rule.one_of is not None and rule.column in hidden:
            line = (
                f"source.rules ({rule.name}): one_of on {rule.column!r}, which {_KEY} hides, would put ids into the "
                f"record of every commit; test another column, or take the rows out before"
            )
            yield line, _KEY, "source.rules", "source.columns"


def _find_in_features(config: "RunConfig") -> Iterator[tuple[str, ...]]:
    privacy = config.source.privacy
    for feature in config.features:
        if privacy and feature.column == feature.key and privacy.hides(feature.of):
            line = f"features ({feature.name}): its column is its key {feature.key!r}, the ids that {_KEY} hides"
            yield f"{line}; leave it out", _KEY, "features"
