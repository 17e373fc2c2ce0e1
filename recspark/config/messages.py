"""What a config's error says: one line a problem, with the key, what was found and what was expected."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from recspark.config.schema import RunConfig
from recspark.config.section import show, types_in

_MAX_PLACES = 4
"""Sections named at most where an unknown key is known elsewhere."""
_SUBJECT = re.compile(r"^\w+ should ")
"""How pydantic begins: Input should be ..., String should match ..., List should have ..."""
_MAPPING, _LIST = "a mapping (several `name: value` lines)", "a list such as [a, b]"
_SHAPES = {"model_type": _MAPPING, "dict_type": _MAPPING, "tuple_type": _LIST, "list_type": _LIST}
"""What a value of another shape should have been, in YAML's words; pydantic's are Python's."""


def describe(error: ErrorDetails) -> str:
    """A problem in one line."""
    location = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        return _describe_unknown_key(location)
    where = ".".join(location)
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{where}: {message}" if where else message
    if error["type"] == "missing":
        return f"{where}: missing, and it has no default"
    found = error["input"]
    shown = name_shape(found) if isinstance(found, dict | list) else show(found)
    if shape := _SHAPES.get(error["type"]):
        return f"{where}: must be {shape}, got {shown}"
    is_text = error["type"] == "string_type" or (error["type"] == "literal_error" and "'" in message)
    if is_text and isinstance(found, bool | int | float):
        shown += _explain_plain(found)
    message = message.replace("greater than or equal to", ">=").replace("less than or equal to", "<=")
    message = message.replace("greater than", ">").replace("less than", "<")
    return f"{where}: must {re.sub(_SUBJECT, '', message)}, got {shown}{_suggest_value(error)}"


def name_shape(found: object) -> str:
    """What YAML calls a value's type."""
    names = {"dict": "a mapping", "list": "a list", "str": "a text"}
    name = type(found).__name__
    return names.get(name, f"a {name}")


def is_text(path: Sequence[str]) -> bool:
    """Whether all that a key takes is text, so that 007 and no are some."""
    *parents, name = path
    section: type[BaseModel] | None = RunConfig
    for parent in parents:
        field = section.model_fields.get(parent) if section else None
        section = _section_in(field.annotation) if field else None
    field = section.model_fields.get(name) if section else None
    return field is not None and {*types_in(field.annotation)} - {type(None)} == {str}


def near_keys(location: Sequence[str]) -> list[str]:
    """The dotted keys that an unknown one was probably meant to be: of that name elsewhere, else spelt alike here.

    Where the one spelt alike holds the whole name (num_epochs, epochs), both are told.
    """
    *parents, key = location
    places = _places_of(parents, key)
    alike = difflib.get_close_matches(key, _known_keys(parents), 1, 0.5)
    return [".".join([*parents, near]) for near in alike if not places or key in near] + places


def _suggest_value(error: ErrorDetails) -> str:
    """The choice that a text was probably meant to be."""
    found = error["input"]
    if error["type"] != "literal_error" or not isinstance(found, str):
        return ""
    choices = re.findall(r"'([^']*)'", error["ctx"]["expected"])
    near = difflib.get_close_matches(re.sub(r"[\s-]+", "_", found.strip().lower()), choices, 1, 0.7)
    return f"; did you mean {near[0]}?" if near else ""


def _explain_plain(found: bool | int | float) -> str:
    """Why a text did not arrive as one."""
    if isinstance(found, bool):
        return " (YAML reads yes, no, on and off as true and false: quote a text, such as 'no')"
    return f" (quote a text, such as '{found}')"


def _describe_unknown_key(location: list[str]) -> str:
    where = ".".join(location)
    if near := near_keys(location):
        *others, last = near
        return f"{where}: unknown key; did you mean {', '.join(others)}{' or ' if others else ''}{last}?"
    return f"{where}: unknown key; known here: {', '.join(_known_keys(location[:-1]))}"


def _places_of(parents: Sequence[str], name: str) -> list[str]:
    """The known keys of a name: those that share most parents, outer ones first."""
    known = [path for path in _paths(RunConfig) if path[-1] == name and len(path) > 1]
    shared = {path: _count_shared(path[:-1], parents) for path in known}
    nearest = [path for path in known if shared[path] == max(shared.values())]
    return [".".join(path) for path in sorted(nearest, key=len)[:_MAX_PLACES]]


def _count_shared(path: Sequence[str], parents: Sequence[str]) -> int:
    """How many first parts two places have in common."""
    return next(
        (i for i, (a, b) in enumerate(zip(path, parents, strict=False)) if a != b), min(len(path), len(parents))
    )


def _paths(model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    """Every key of a section and of those in it, but for those of list entries."""
    for name, field in model.model_fields.items():
        yield (name,)
        if inner := _section_in(field.annotation):
            yield from ((name, *path) for path in _paths(inner))


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation such as ``WalksConfig | None`` stands for."""
    if get_origin(annotation) in (tuple, dict):
        return None
    return next((t for t in types_in(annotation) if issubclass(t, BaseModel)), None)


def _known_keys(parents: Iterable[str]) -> list[str]:
    model: type[BaseModel] = RunConfig
    for parent in parents:
        if parent.isdigit():
            continue
        field = model.model_fields.get(parent)
        inner = next((t for t in types_in(field.annotation) if issubclass(t, BaseModel)), None) if field else None
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)
