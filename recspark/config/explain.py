"""A config as YAML with what each knob means above it, from the docstrings of its section.

# Second-order random walks over the item graph (node2vec).
walks:
  # Return parameter: below 1, walks step back more often (node2vec, section 3.2.2).
  p: 1.0
"""

import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from recspark.config.schema import RunConfig
from recspark.config.section import types_in

_WIDTH = 110
_STEP = "  "


def explain_config(config: RunConfig) -> str:
    """The resolved config, every knob under its description; as YAML it reads as the config does.

    Sections that are off, and entries of lists, are shown as comments, each knob with its default.
    """
    return "\n".join(_show_section(type(config), config)) + "\n"


def _show_section(section: type[BaseModel], values: BaseModel | None) -> Iterator[str]:
    """Lines of a section's knobs; without ``values`` those of its defaults."""
    for name, field in section.model_fields.items():
        inner = next((t for t in types_in(field.annotation) if issubclass(t, BaseModel)), None)
        yield from _show_text(_describe(field, inner))
        value = getattr(values, name) if values else _show_default(field)
        if isinstance(value, BaseModel):
            yield f"{name}:"
            yield from _shift(_show_section(type(value), value), _STEP)
        else:
            yield from yaml.safe_dump({name: _dump(value)}, sort_keys=False, width=_WIDTH).splitlines()
            if inner:
                yield from _shift(_show_entry(inner, is_list=value is not None), "# ")
        if section is RunConfig:
            yield ""


def _describe(field: FieldInfo, section: type[BaseModel] | None) -> str:
    """A knob's description, with its choices where it leaves some out; then that of the section that it holds."""
    said = field.description or ""
    choices = [str(one) for one in _choices_in(field.annotation)]
    if not all(re.search(rf"\b{re.escape(one)}\b", said) for one in choices):
        said += f" One of: {', '.join(choices)}."
    return "\n\n".join(filter(None, [said, inspect.getdoc(section) if section else None]))


def _choices_in(annotation: Any) -> Iterator[Any]:
    """What the Literals in an annotation name."""
    inner = get_args(annotation)
    yield from inner if get_origin(annotation) is Literal else (one for i in inner for one in _choices_in(i))


def _show_entry(section: type[BaseModel], is_list: bool) -> Iterator[str]:
    """What a section that is off, or an entry of a list, may hold."""
    yield "each entry:" if is_list else "where it is given:"
    yield from _shift(_show_section(section, None), _STEP)


def _show_default(field: FieldInfo) -> Any:
    return "(needed)" if field.is_required() else field.get_default(call_default_factory=True)


def _show_text(text: str) -> Iterator[str]:
    """Comment lines; a docstring's line breaks are its source's."""
    for paragraph in text.split("\n\n"):
        for line in textwrap.wrap(" ".join(paragraph.split()), _WIDTH):
            yield f"# {line}"


def _dump(value: Any) -> Any:
    """A value as YAML takes it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [_dump(one) for one in value] if isinstance(value, list | tuple) else value


def _shift(lines: Iterator[str], by: str) -> Iterator[str]:
    for line in lines:
        yield f"{by}{line}".rstrip()
