"""From a YAML file and ``key=value`` overrides to a checked :class:`RunConfig`, or one message with every problem."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from recspark.config.checks import OVERRIDDEN, WRONG
from recspark.config.messages import describe, is_text, name_shape, near_keys
from recspark.config.privacy import KEY_PLACE
from recspark.config.schema import RunConfig
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
    overridden = frozenset(override.partition("=")[0].strip() for override in overrides)
    config, found = _validate(values, overridden)
    problems += found
    if problems or config is None:
        noun = "problem" if len(problems) == 1 else "problems"
        raise ConfigError("\n".join([f"{path} has {len(problems)} {noun}:", *(f"  {p}" for p in problems)]))
    return config


def _validate(values: dict[str, Any], overridden: frozenset[str]) -> tuple[RunConfig | None, list[str]]:
    """The config, or every problem: what fields say together is checked on those that are right by themselves."""
    problems: list[str] = []
    wrong: set[str] = set()
    while True:
        try:
            context = {WRONG: frozenset(wrong), OVERRIDDEN: overridden}
            config = RunConfig.model_validate(values, context=context)
        except ValidationError as error:
            errors = error.errors()
        else:
            return (None if problems else config), problems
        told = [e for e in errors if not _follows(e, errors, wrong)]
        problems += [line for e in told for line in describe(e).splitlines() if line not in problems]
        if not _forget(values, errors, wrong):
            return None, problems


def _follows(error: ErrorDetails, others: Sequence[ErrorDetails], wrong: set[str]) -> bool:
    """Whether a key, or a section or list as a whole, is only complained of for another problem.

    That is a value inside it that is wrong, or a default that stands in for one; of a missing key, that it was
    misspelt, or wrong and taken away.
    """
    place = _place(error)
    if not place:
        return False
    misspelt = {near for e in others if e["type"] == "extra_forbidden" for near in near_keys(_place(e))}
    if error["type"] == "missing" and ".".join(place) in wrong | misspelt:
        return True
    inside = [*(".".join(_place(e)) for e in others), *wrong]
    return any(key.startswith(f"{'.'.join(place)}.") for key in inside)


def _forget(values: dict[str, Any], errors: Sequence[ErrorDetails], wrong: set[str]) -> bool:
    """Removes wrong values, so that their defaults stand in while the rest is checked; False where there is none.

    What is removed goes to ``wrong``, and so do the keys that a misspelt one was probably meant to be.
    """
    removed: set[str] = set()
    for error in errors:
        place = _place(error)
        if error["type"] == "extra_forbidden":
            wrong.update(near_keys(place))
        if any(f"{'.'.join(place)}.".startswith(f"{key}.") for key in removed):
            continue
        if not place or place[0] not in values:
            return False
        removed.add(_remove(values, place))
    wrong |= removed
    return True


def _remove(values: dict[str, Any], place: Sequence[str]) -> str:
    """Takes away what is given at a place, or the innermost section or list around it; the dotted key of that."""
    section, path = values, [place[0]]
    while isinstance(inner := section[path[-1]], dict) and len(path) < len(place) and place[len(path)] in inner:
        section = inner
        path.append(place[len(path)])
    del section[path[-1]]
    return ".".join(path)


def _place(error: ErrorDetails) -> list[str]:
    return [str(part) for part in error["loc"]]


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
        raise ConfigError(f"{path}: expected sections such as `source:`, found {name_shape(found)}")
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
    section[last] = _read_override(text, is_text([*parents, last]))
    return None


def _read_override(text: str, is_of_text: bool) -> Any:
    """The value that YAML reads; where a text is wanted, a number, yes or no stays what was typed."""
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text
    return text.strip() if is_of_text and isinstance(value, bool | int | float) else value


def _expand_environment(value: Any, problems: list[str], place: tuple[Any, ...] = ()) -> Any:
    """Replaces ``${env:NAME}`` in every text but that of the id key; unset names are problems."""
    if isinstance(value, dict):
        return {k: _expand_environment(v, problems, (*place, k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand_environment(v, problems, (*place, None)) for v in value]
    if not isinstance(value, str) or place == KEY_PLACE:
        return value

    def look_up(match: re.Match[str]) -> str:
        if (found := os.environ.get(match[1])) is None:
            problems.append(f"${{env:{match[1]}}}: the environment variable {match[1]} is not set")
        return found or ""

    return _ENVIRONMENT.sub(look_up, value)
