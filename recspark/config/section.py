"""The base of every config section, and field types that sections share."""

import datetime as dt
import math
import zoneinfo
from collections.abc import Iterable
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator


class Section(BaseModel):
    """A group of knobs: frozen, unknown keys refused. The docstring under each field is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _read_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Numbers as people mean them: ``true`` is none, and 1e3 or 1e-2, which YAML 1.1 takes for texts, are some."""
        assert info.field_name
        types = set(types_in(cls.model_fields[info.field_name].annotation))
        if not types & {int, float}:
            return value
        if bool not in types and _holds_boolean(value):
            raise ValueError(f"must be a valid {'integer' if int in types else 'number'}, got {show(value)}")
        return value if str in types else _read_powers(value, float in types)


def show(value: Any) -> str:
    """A value as YAML writes it: ``true``, not ``True``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(show, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k}: {show(v)}' for k, v in value.items())}}}"
    return repr(value)


def types_in(annotation: Any) -> Iterable[type]:
    """All classes in an annotation such as ``tuple[DropRule, ...] | None``."""
    if isinstance(annotation, type):
        yield annotation
    for inner in get_args(annotation):
        yield from types_in(inner)


def _holds_boolean(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return isinstance(value, bool) or any(isinstance(one, bool) for one in inner)


def _read_powers(value: Any, is_float: bool) -> Any:
    """Texts such as 1e3, or 1e-2 where ``is_float``, as the numbers they are (as YAML 1.2 has it); all else as it came.

    Only knobs that take numbers ask: elsewhere 1e3 stays a name, and 123456789e12 a model_id.
    """
    if isinstance(value, list | tuple):
        return [_read_powers(one, is_float) for one in value]
    if isinstance(value, dict):
        return {name: _read_powers(one, is_float) for name, one in value.items()}
    if not isinstance(value, str) or "e" not in value.lower():
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    if number.is_integer():
        return int(number)
    return number if is_float and math.isfinite(number) else value


def to_utc(text: str) -> dt.datetime:
    """An ISO time; UTC where it names no zone.

    Raises: ValueError when it is none.
    """
    time = dt.datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=dt.UTC)


def _check_iso_time(text: str) -> str:
    try:
        dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"expected an ISO time such as 2026-02-16 or 2026-02-16T12:00:00Z, got {text!r}") from error
    return text


def _check_iso_day(text: str) -> str:
    try:
        dt.date.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"expected a day such as 2026-02-16, got {text!r}") from error
    return text


def _check_time_zone(name: str) -> str:
    if name not in zoneinfo.available_timezones():
        raise ValueError(f"expected an IANA time zone such as Europe/Berlin, got {name!r}")
    return name


Decay = Annotated[float, Field(gt=0, le=1)]
"""A weight to the power of a place: 1 weighs all alike."""
IsoTime = Annotated[str, AfterValidator(_check_iso_time)]
IsoDay = Annotated[str, AfterValidator(_check_iso_day)]
TimeZone = Annotated[str, AfterValidator(_check_time_zone)]
