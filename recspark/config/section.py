"""The base of every config section, and field types that sections share."""

import datetime as dt
import zoneinfo
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


class Section(BaseModel):
    """A group of knobs: frozen, unknown keys refused. The docstring under each field is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


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


IsoTime = Annotated[str, AfterValidator(_check_iso_time)]
IsoDay = Annotated[str, AfterValidator(_check_iso_day)]
TimeZone = Annotated[str, AfterValidator(_check_time_zone)]
