"""Who does what of one build, on one host or many: train once, add any shards, finish once.

    torchrun, rank 0 of 3        -> trains, adds shards 0, 3, 6 ..., waits for the others, finishes
    torchrun, rank 1 of 3        -> waits for the training, adds shards 1, 4, 7 ...
    --step add --shards 0-3,7    -> waits for the training, adds shards 0, 1, 2, 3, 7

Each step is idempotent, and they meet in the index folder alone: nobody talks to anybody, anyone may be killed and
started again.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from recspark.errors import IndexBuildError, SetupError

STEPS = ("train", "add", "finish")
_POLL_SECONDS = 0.5
_RANK_VARIABLES = (("RANK", "WORLD_SIZE"), ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"))
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True)
class Share:
    """This process's part of a build: whether it trains and finishes, and which shards it adds.

    ``shards`` names them; None means every ``world_size``-th from ``rank`` on.
    """

    trains: bool = True
    finishes: bool = True
    rank: int = 0
    world_size: int = 1
    shards: tuple[int, ...] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether nobody else takes part."""
        return self == WHOLE

    def shards_of(self, num_shards: int) -> list[int]:
        """The shards to add.

        Raises: IndexBuildError for a shard that the index does not have.
        """
        if self.shards is None:
            return [*range(self.rank, num_shards, self.world_size)]
        beyond = [str(shard) for shard in self.shards if shard >= num_shards]
        if beyond:
            raise IndexBuildError(
                f"--shards {', '.join(beyond)}: index.num_shards is {num_shards}, so they go from 0 to {num_shards - 1}"
            )
        return [*self.shards]


WHOLE = Share()


def read_share(environment: Mapping[str, str]) -> Share:
    """The share that a launcher's variables name, all of it without any.

    RANK and WORLD_SIZE are torchrun's; JOB_COMPLETION_INDEX is a Kubernetes indexed job's, whose ``completions`` the
    pod's template has to hand on as JOB_COMPLETIONS.

    Raises: SetupError where one of two variables is missing, or they are no numbers that fit each other.
    """
    for rank_name, size_name in _RANK_VARIABLES:
        if rank_name not in environment:
            continue
        texts = (environment[rank_name], environment.get(size_name, ""))
        rank, size = (int(text) if text.isdecimal() else -1 for text in texts)
        if not 0 <= rank < size:
            raise SetupError(
                f"{rank_name} is {texts[0]!r} and {size_name} {texts[1]!r}: expected a number from 0 on, and how many "
                f"processes build together; set {size_name} for every process"
            )
        return Share(trains=rank == 0, finishes=rank == 0, rank=rank, world_size=size)
    return WHOLE


def read_step(step: str, shards: str | None) -> Share:
    """The share of ``--step`` and ``--shards``, as ``0-3,7``.

    Raises: SetupError for an unknown step, or shards that are none.
    """
    if step not in STEPS:
        raise SetupError(f"--step {step}: no such step; there are {', '.join(STEPS)}")
    if (step == "add") != (shards is not None):
        raise SetupError(f"--step {step}: --shards goes with --step add, and is needed there, such as --shards 0-3,7")
    return Share(step == "train", step == "finish", shards=parse_shards(shards or ""))


def parse_shards(text: str) -> tuple[int, ...]:
    """``0-3,7`` as (0, 1, 2, 3, 7); empty as ().

    Raises: SetupError.
    """
    found: list[int] = []
    for part in filter(None, text.split(",")):
        match = _RANGE.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise SetupError(f"--shards {text}: {part.strip()!r} is no shard and no range; expected such as 0-3,7")
        found += range(first, last + 1)
    return tuple(dict.fromkeys(found))


def wait_until_there(find_missing: Callable[[], str | None], folder: str, timeout_seconds: float) -> None:
    """Waits until nothing is missing; the clock starts anew whenever what is missing changes.

    Raises: IndexBuildError that names what did not come.
    """
    before, since = None, time.monotonic()
    while missing := find_missing():
        if missing != before:
            before, since = missing, time.monotonic()
        elif time.monotonic() - since > timeout_seconds:
            raise IndexBuildError(
                f"{folder}: waited {timeout_seconds:g} seconds for {missing}; start the process that makes it again "
                "(what is finished is kept), or raise index.timeout_seconds where it only takes longer"
            )
        time.sleep(_POLL_SECONDS)
