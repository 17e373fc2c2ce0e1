"""Every error a user can cause, by the place where it is mended.

A message says where, what was found, what was expected and what to do. The command line prints it
without a traceback and exits with the error's ``exit_code``; any other exception is our own mistake and exits with 1.
"""

_MOST_CAUSES = 20


class RecsparkError(Exception):
    """Something in the user's input, data or machine has to change before the run can go on."""

    exit_code = 2


class ConfigError(RecsparkError):
    """The config file or an override is wrong; lists every problem found."""


class SetupError(RecsparkError):
    """The machine lacks something: Java, jars, a library, memory."""


class SourceError(RecsparkError):
    """The source cannot be read as the config describes it."""


class LakeError(RecsparkError):
    """A table or folder of the lake is missing, foreign or damaged."""


class DataError(RecsparkError):
    """The data is readable but cannot yield what the stage needs: an empty split, a single item."""


class DataLeakError(RecsparkError):
    """Something that the split holds out has reached what was learned: no input can mend that."""

    exit_code = 1


class TrainingError(RecsparkError):
    """Training cannot start, go on or be resumed."""


class RankLost(TrainingError):
    """A rank has ended or does not come: nothing to change in the input, the same command may be run again.

    ``first_left`` is the first rank that is there to say so.
    """

    exit_code = 1

    def __init__(self, message: str, first_left: int = 0) -> None:
        super().__init__(message)
        self.first_left = first_left


class IndexBuildError(RecsparkError):
    """The index cannot be built as asked from these vectors."""


class IndexReadError(RecsparkError):
    """An index on disk is missing files, damaged, or of another build."""


class ReleaseError(RecsparkError):
    """A release cannot be published, activated or opened as asked."""


class QueryError(RecsparkError):
    """A query names an item or user that the lake does not know."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, its kind where it has none: libraries append stacks and hints."""
    return next(iter(str(error).splitlines()), type(error).__name__).strip()


def full_text(error: BaseException | None) -> str:
    """The messages of an error and of its causes, those inside the JVM too, outermost first."""
    texts: list[str] = []
    while error is not None and len(texts) < _MOST_CAUSES:
        texts.append(str(error))
        inside = getattr(error, "cause", None) or getattr(error, "_cause", None)
        error = inside or error.__cause__
    return "\n".join(texts)
