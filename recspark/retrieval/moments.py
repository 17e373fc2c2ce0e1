"""When users are asked for: a time that is given, or now. Only what came strictly before it is their history."""

import datetime as dt

from recspark.errors import QueryError

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def find_moment(at: str | dt.datetime | None, where: str) -> int:
    """Microseconds since the epoch of an ISO time (UTC where it names no zone); now without one.

    Raises: QueryError naming ``where`` it was given.
    """
    if at is None:
        return (dt.datetime.now(dt.UTC) - _EPOCH) // dt.timedelta(microseconds=1)
    try:
        time = dt.datetime.fromisoformat(at) if isinstance(at, str) else at
    except ValueError as error:
        raise QueryError(f"{where}: {at!r} is not an ISO time such as 2026-02-16 or 2026-02-16T12:00:00Z") from error
    time = time if time.tzinfo else time.replace(tzinfo=dt.UTC)
    return (time - _EPOCH) // dt.timedelta(microseconds=1)
