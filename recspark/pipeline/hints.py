"""Messages that tell the user what to run: those who wrote them don't know the config file, the entries do."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from recspark.errors import RecsparkError

_UNKNOWN, _COMMAND = "CONF", "`recspark run "


def fill_in(message: str, arguments: Sequence[str]) -> str:
    """The message with `recspark run CONF ...` as the command to type; ``arguments``: config path and overrides.

    "run `recspark run CONF --to index`"  ->  "run `recspark run my.yaml walks.p=0.5 --to index`"
    """
    return message.replace(_COMMAND + _UNKNOWN, _COMMAND + shlex.join(arguments))


@contextmanager
def filled_in(arguments: Sequence[str]) -> Iterator[None]:
    """Errors raised inside name the command to type."""
    try:
        yield
    except RecsparkError as error:
        message = fill_in(str(error), arguments)
        if message == str(error):
            raise
        raise type(error)(message) from error
