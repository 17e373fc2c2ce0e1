"""The users by whom a readout is chosen: train items as history, validation items as relevant.

user_histories row   item_idx [3, 5, 3, 8, 9]   num_train 3, num_valid 1   ->   history [3, 5, 3], relevant {8}

What lies behind the validation items is not looked at.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recspark.config.learning import ReadoutSearchConfig
from recspark.contracts import columns as c
from recspark.contracts.shards import hash_ids
from recspark.errors import DataError
from recspark.evaluate.histories import TRAIN_ONLY, Cases, CaseSpec, build_cases
from recspark.evaluate.history_context import HistoryContext
from recspark.evaluate.ragged import Ragged
from recspark.lake.arrow import TableAt, read_table, stream_table
from recspark.training.world import World

_COLUMNS = [c.USER_IDX, c.ITEM_IDX, c.TS, c.NUM_TRAIN, c.NUM_VALID, c.NUM_CONTEXT]
_USERS_AT_ONCE = 50_000


def read_valid_cases(
    user_histories: TableAt, num_events: NDArray[np.int64], search: ReadoutSearchConfig, world: World,
    event_columns: Sequence[str] = (),
) -> Cases:  # fmt: skip
    """The users with both train and validation items, by user_idx; of more than ``max_users`` those with the smallest
    hashes. The same on every rank: each reads all histories, looks at every n-th piece of them and tells the others
    which users it found. ``event_columns`` are read into their context. Collective.

    Raises: DataError when there are none.
    """
    spec = CaseSpec(c.VALID, TRAIN_ONLY, search.mask_seen, search.max_users)
    own = list(_find_cases(user_histories, event_columns, num_events, spec, world))
    found = [cases for of_rank in world.gather_objects(own) for cases in of_rank]
    if not found:
        raise _nobody(user_histories, num_events, spec, world)
    return first_by_hash(_join(found), search.max_users)


def first_by_hash(cases: Cases, num_users: int) -> Cases:
    """So many of the users, those with the smallest hashes, by user_idx: more users hold all of fewer."""
    order = np.lexsort((cases.user_idx, hash_ids(cases.user_idx)))
    return _take(cases, order[:num_users][np.argsort(cases.user_idx[order[:num_users]])])


def _find_cases(
    user_histories: TableAt, event_columns: Sequence[str], num_events: NDArray[np.int64], spec: CaseSpec, world: World
) -> Iterator[Cases]:
    """The users of this rank's pieces of the table."""
    columns = list(dict.fromkeys([*_COLUMNS, *event_columns]))
    for piece, batch in enumerate(stream_table(user_histories, columns, _USERS_AT_ONCE)):
        if piece % world.world_size == world.rank:
            rows = _without_context(pa.Table.from_batches([batch]))
            HistoryContext.from_rows(rows, event_columns)  # what is wrong with them is no piece without anybody
            try:
                yield build_cases(rows, num_events, spec, event_columns)
            except DataError:  # nobody in this piece
                continue


def _without_context(rows: pa.Table) -> pa.Table:
    """Without a context nothing behind the validation items is history: the slice is scored from train alone."""
    place = rows.schema.get_field_index(c.NUM_CONTEXT)
    return rows.set_column(place, c.NUM_CONTEXT, pa.array(np.zeros(len(rows), np.int32)))


def _nobody(user_histories: TableAt, num_events: NDArray[np.int64], spec: CaseSpec, world: World) -> DataError:
    """Why no user is left; rank 0 looks at all of them once more for the counts. Collective."""
    reason = ""
    if world.rank == 0:
        try:
            build_cases(_without_context(read_table(user_histories, _COLUMNS)), num_events, spec)
        except DataError as error:
            reason = str(error)
    return DataError(
        f"model.readout, metric, centred, history_decay, popularity_term: auto is chosen on the validation slice, "
        f"but {world.gather_objects(reason)[0]}; or set split.valid to another slice, or give values"
    )


def _join(parts: list[Cases]) -> Cases:
    """The users of all parts; what was counted is the first part's."""

    def join(name: Callable[[Cases], Ragged]) -> Ragged:
        rows = [name(part) for part in parts]
        return Ragged.from_lengths(np.concatenate([r.lengths for r in rows]), np.concatenate([r.values for r in rows]))

    return Cases(
        np.concatenate([part.user_idx for part in parts]),
        join(lambda part: part.history),
        join(lambda part: part.relevant),
        join(lambda part: part.masked),
        np.concatenate([part.is_cold for part in parts]),
        parts[0].counts,
        HistoryContext.join([part.context for part in parts]),
    )


def _take(cases: Cases, rows: NDArray[np.int64]) -> Cases:
    return replace(
        cases,
        user_idx=cases.user_idx[rows],
        history=cases.history.take(rows),
        relevant=cases.relevant.take(rows),
        masked=cases.masked.take(rows),
        is_cold=cases.is_cold[rows],
        context=cases.context.take(cases.history, rows),
    )
