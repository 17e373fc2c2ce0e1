"""From a YAML file and ``key=value`` overrides to a checked :class:`RunConfig`, or one message with every problem."""

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from recspark.config.checks import WRONG
from recspark.config.schema import RunConfig
from recspark.config.section import show, types_in
from recspark.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Safe, and without dates: ``cut: 2026-02-16`` stays the text that it looks like."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:timestamp"]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are given once: of two, one would silently not count."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := sorted({str(k) for k in keys if keys.count(k) > 1}):
            raise yaml.constructor.ConstructorError(None, None, f"key given twice: {', '.join(twice)}", node.start_mark)
        return super().construct_mapping(node, deep)


_ENVIRONMENT = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The run described by a YAML file, with dotted overrides such as ``walks.p=0.5`` applied on top.

    Raises: ConfigError listing every problem: file, key, what was found, what was expected.
    """
    values = _read_yaml(Path(path))
    problems = [p for override in overrides if (p := _apply_override(values, override))]
    try:
        values = _expand_environment(values, problems)
    except RecursionError as error:
        raise ConfigError(f"{path}: an anchor holds itself; write the values out") from error
    config, found = _validate(values)
    problems += found
    if problems or config is None:
        noun = "problem" if len(problems) == 1 else "problems"
        raise ConfigError("\n".join([f"{path} has {len(problems)} {noun}:", *(f"  {p}" for p in problems)]))
    return config


def _validate(values: dict[str, Any]) -> tuple[RunConfig | None, list[str]]:
    """The config, or every problem: what fields say together is checked on those that are right by themselves."""
    problems: list[str] = []
    wrong: set[str] = set()
    while True:
        try:
            config = RunConfig.model_validate(values, context={WRONG: frozenset(wrong)})
        except ValidationError as error:
            errors = error.errors()
        else:
            return (None if problems else config), problems
        told = [e for e in errors if not _follows(e, wrong)]
        problems += [line for e in told for line in _describe(e).splitlines() if line not in problems]
        if not all(_forget(values, e, wrong) for e in errors):
            return None, problems


def _follows(error: ErrorDetails, wrong: set[str]) -> bool:
    """Whether a section complains only of a default that stands in for a wrong value."""
    where = ".".join(map(str, error["loc"]))
    return bool(where) and any(key.startswith(f"{where}.") for key in wrong)


def _forget(values: dict[str, Any], error: ErrorDetails, wrong: set[str]) -> bool:
    """Removes a wrong value, so that its default stands in while the rest is checked; False where there is none.

    What is removed goes to ``wrong``, and so does the key that a misspelt one was probably meant to be.
    """
    section, place = values, list(map(str, error["loc"]))
    if not place or place[0] not in values:
        return False
    path = [place[0]]
    while isinstance(inner := section[path[-1]], dict) and len(path) < len(place) and place[len(path)] in inner:
        section = inner
        path.append(place[len(path)])
    del section[path[-1]]
    wrong.add(".".join(path))
    if error["type"] == "extra_forbidden" and (near := _near_key(place)):
        wrong.add(".".join([*place[:-1], near]))
    return True


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError as error:
        near = sorted(str(p) for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = f"; there are {', '.join(near)}" if near else ""
        raise ConfigError(f"{path}: no such config file{hint}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected sections such as `source:`, found {_name_shape(found)}")
    return found


def _apply_override(values: dict[str, Any], override: str) -> str | None:
    """Sets one dotted key in place; returns the problem where it can't be."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        return f"override {override!r}: expected key=value, such as walks.p=0.5"
    *parents, last = key.strip().split(".")
    section = values
    for parent in parents:
        below = section.get(parent)
        if below is None:
            below = section[parent] = {}
        if not isinstance(below, dict):
            return f"override {override!r}: {parent} is not a section"
        section = below
    try:
        section[last] = yaml.load(text, _Loader)
    except yaml.YAMLError:
        section[last] = text
    return None


def _expand_environment(value: Any, problems: list[str]) -> Any:
    """Replaces ``${env:NAME}`` in every text; unset names are problems."""
    if isinstance(value, dict):
        return {k: _expand_environment(v, problems) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand_environment(v, problems) for v in value]
    if not isinstance(value, str):
        return value

    def look_up(match: re.Match[str]) -> str:
        if (found := os.environ.get(match[1])) is None:
            problems.append(f"${{env:{match[1]}}}: the environment variable {match[1]} is not set")
        return found or ""

    return _ENVIRONMENT.sub(look_up, value)


_SUBJECT = re.compile(r"^\w+ should ")
"""How pydantic begins: Input should be ..., String should match ..., List should have ..."""
_MAPPING, _LIST = "a mapping (several `name: value` lines)", "a list such as [a, b]"
_SHAPES = {"model_type": _MAPPING, "dict_type": _MAPPING, "tuple_type": _LIST, "list_type": _LIST}
"""What a value of another shape should have been, in YAML's words; pydantic's are Python's."""


def _describe(error: ErrorDetails) -> str:
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
    shown = _name_shape(found) if isinstance(found, dict | list) else show(found)
    if shape := _SHAPES.get(error["type"]):
        return f"{where}: must be {shape}, got {shown}"
    is_text = error["type"] == "string_type" or (error["type"] == "literal_error" and "'" in message)
    if is_text and isinstance(found, bool | int | float):
        shown += _explain_plain(found)
    message = message.replace("greater than or equal to", ">=").replace("less than or equal to", "<=")
    message = message.replace("greater than", ">").replace("less than", "<")
    return f"{where}: must {re.sub(_SUBJECT, '', message)}, got {shown}"


def _name_shape(found: object) -> str:
    """What YAML calls a value's type."""
    names = {"dict": "a mapping", "list": "a list", "str": "a text"}
    name = type(found).__name__
    return names.get(name, f"a {name}")


def _explain_plain(found: bool | int | float) -> str:
    """Why a text did not arrive as one."""
    if isinstance(found, bool):
        return " (YAML reads yes, no, on and off as true and false: quote a text, such as 'no')"
    return f" (quote a text, such as '{found}')"


def _describe_unknown_key(location: list[str]) -> str:
    *parents, key = location
    prefix = "".join(f"{p}." for p in parents)
    if near := _near_key(location):
        return f"{prefix}{key}: unknown key; did you mean {prefix}{near}?"
    return f"{prefix}{key}: unknown key; known here: {', '.join(_known_keys(parents))}"


def _near_key(location: list[str]) -> str | None:
    """The known key that an unknown one was probably meant to be."""
    *parents, key = location
    return next(iter(difflib.get_close_matches(key, _known_keys(parents), 1, 0.5)), None)


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
