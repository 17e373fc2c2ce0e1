"""Which readout serves users best: every combination left open is scored on the validation slice, exactly.

    tables, train histories, validation items  ->  ReadoutSpec, and a table such as
    readout       metric  centred  history_decay  popularity_term   recall@20
    input         cosine  false    1.0            0.0               .1204
    input_output  ip      false    0.8            0.1               .1489     <- chosen

Of a user only train and validation events are looked at: whatever lies behind them decides nothing.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recspark.config.learning import ReadoutSearchConfig
from recspark.config.schema import ModelConfig
from recspark.contracts import columns as c
from recspark.errors import DataError
from recspark.evaluate.histories import TRAIN_ONLY, Cases, CaseSpec, build_cases
from recspark.evaluate.ranking import RANKING_METRICS, find_hits
from recspark.evaluate.top_k import BLOCK_BYTES, blocks, mask_scores, top_k
from recspark.lake.arrow import TableAt, read_table
from recspark.logs import Progress, log
from recspark.training.inputs import TrainInputs
from recspark.training.readout import Readout, ReadoutSpec, mean_user_vectors, popularity_bias, read_vectors, unit_rows
from recspark.training.tables import SkipGramTables
from recspark.training.world import World

METRICS, SWITCHES = ("cosine", "ip"), (False, True)
_COLUMNS = [c.USER_IDX, c.ITEM_IDX, c.TS, c.NUM_TRAIN, c.NUM_VALID, c.NUM_CONTEXT]


@dataclass(frozen=True)
class ReadoutChoice:
    """What was chosen, the value of each combination in the order they were tried, and on how many users."""

    spec: ReadoutSpec
    tried: dict[ReadoutSpec, float]
    num_users: int
    metric: str

    def to_facts(self) -> dict[str, Any]:
        """The table of results, as manifest and record carry it."""
        return {
            "metric": self.metric,
            "value": self.tried[self.spec],
            "users": self.num_users,
            "candidates": len(self.tried),
            "results": [spec.to_facts() | {"value": value} for spec, value in self.tried.items()],
        }


def find_readout(
    config: ModelConfig, inputs: TrainInputs, part: Callable[[range], SkipGramTables], world: World
) -> dict[str, Any]:
    """The facts of what is exported: as the config gives it, or as rank 0 chooses it on the validation slice.

    ``part`` gives the trained rows of a range of items, as `Backend.part` does. Collective.

    Raises: DataError when no user has both train and validation items.
    """
    if not config.autos:
        return ReadoutSpec.from_config(config).to_facts()
    assert inputs.user_histories, "the config is checked for users"
    tables = part(range(len(inputs.num_events) if world.rank == 0 else 0))
    chosen: dict[str, Any] = {}
    if world.rank == 0:
        choice = choose_readout(tables, inputs.user_histories, inputs.num_events, config)
        chosen = choice.spec.to_facts() | {"readout_search": choice.to_facts()}
    found: dict[str, Any] = world.gather_objects(chosen)[0]
    return found


def choose_readout(
    tables: SkipGramTables, user_histories: TableAt, num_events: NDArray[np.int64], config: ModelConfig
) -> ReadoutChoice:
    """The best of `list_candidates` on the validation slice; of equals the one listed first.

    Raises: DataError when no user has both train and validation items.
    """
    search, candidates = config.readout_search, list_candidates(config)
    cases = read_valid_cases(user_histories, num_events, search)
    progress = Progress("train", len(candidates), "readouts")
    tried: dict[ReadoutSpec, float] = {}
    for space, alike in itertools.groupby(candidates, _space_of):
        specs = list(alike)
        for spec, value in zip(specs, _score(tables, num_events, cases, specs, search.metric), strict=True):
            tried[spec] = value
        progress.update(len(tried))
        values = {f"at {s.popularity_term:g}": round(tried[s], 5) for s in specs}
        log("train", f"{search.metric} of {_describe_space(space)}, by popularity_term", **values)
    chosen = max(tried, key=lambda spec: tried[spec])  # max takes the first of equals
    log("train", f"chosen: {describe(chosen)}, best of {len(tried)} on {len(cases):,} users of the validation slice",
        **{search.metric: round(tried[chosen], 5)})  # fmt: skip
    return ReadoutChoice(chosen, tried, len(cases), search.metric)


def list_candidates(config: ModelConfig) -> list[ReadoutSpec]:
    """Every combination of what is `auto`, with what is given: by readout, centring, metric, history decay and
    popularity term.
    """
    search = config.readout_search
    readouts = search.readouts if config.readout == "auto" else (config.readout,)
    switches = SWITCHES if config.centred == "auto" else (bool(config.centred),)
    metrics = METRICS if config.metric == "auto" else (config.metric,)
    decays = search.history_decays if config.history_decay == "auto" else (float(config.history_decay),)
    terms = search.popularity_terms if config.popularity_term == "auto" else (float(config.popularity_term),)
    found = itertools.product(readouts, switches, metrics, decays, terms)
    items = config.history_items
    return list(
        dict.fromkeys(ReadoutSpec(r, metric, centred, t, decay, items) for r, centred, metric, decay, t in found)
    )


def describe(spec: ReadoutSpec) -> str:
    """A spec for people."""
    return f"{_describe_space(_space_of(spec))}, popularity_term {spec.popularity_term:g}"


def read_valid_cases(user_histories: TableAt, num_events: NDArray[np.int64], search: ReadoutSearchConfig) -> Cases:
    """The users to choose by: train items as history, validation items as relevant.

    Raises: DataError when there are none.
    """
    rows = read_table(user_histories, _COLUMNS)
    # Without a context nothing behind the validation items is history: the slice is scored from train alone.
    place = rows.schema.get_field_index(c.NUM_CONTEXT)
    rows = rows.set_column(place, c.NUM_CONTEXT, pa.array(np.zeros(len(rows), np.int32)))
    spec = CaseSpec(c.VALID, TRAIN_ONLY, search.mask_seen, search.max_users)
    try:
        return build_cases(rows, num_events, spec)
    except DataError as error:
        raise DataError(
            f"model.readout, metric, centred, history_decay, popularity_term: auto is chosen on the validation slice, "
            f"but {error}; or set split.valid to another slice, or give values"
        ) from error


def _space_of(spec: ReadoutSpec) -> ReadoutSpec:
    """What candidates have to share to be scored together: they differ in the popularity term alone."""
    return replace(spec, popularity_term=0.0)


def _describe_space(spec: ReadoutSpec) -> str:
    centred = "true" if spec.centred else "false"
    found = f"readout {spec.readout}, metric {spec.metric}, centred {centred}, history_decay {spec.history_decay:g}"
    return found if spec.history_items is None else f"{found}, history_items {spec.history_items}"


def _score(
    tables: SkipGramTables, num_events: NDArray[np.int64], cases: Cases, specs: list[ReadoutSpec], label: str
) -> list[float]:
    """The metric of each spec, all of one space: a GEMM serves all popularity terms."""
    name, k = label.split("@")
    biases = [popularity_bias(num_events, tables.is_trained, spec.popularity_term) for spec in specs]
    totals = np.zeros(len(specs))
    for start, stop, scores_BN in _score_blocks(tables, num_events, cases, specs[0]):
        relevant, biased_BN = cases.relevant.block(start, stop), np.empty_like(scores_BN)
        for place, bias in enumerate(biases):
            np.add(scores_BN, bias, out=biased_BN)
            hits_BK = find_hits(top_k(biased_BN, int(k)).ids, relevant)
            totals[place] += RANKING_METRICS[name](hits_BK, relevant.lengths, int(k)).sum()
    return [float(total) for total in totals / len(cases)]


def _score_blocks(
    tables: SkipGramTables, num_events: NDArray[np.int64], cases: Cases, spec: ReadoutSpec
) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """(first user, last + 1, similarities [B, V]) block by block; -inf for what must not be listed."""
    vectors, query = read_vectors(tables, spec.readout, spec.centred)
    items = Readout(vectors, query, np.zeros(len(vectors), np.float32), tables.is_trained, spec.history_weights)
    lengths = cases.history.lengths.astype(np.int32)
    users, _ = mean_user_vectors(cases.history.values, cases.history.offsets[:-1], lengths, items)
    if spec.metric == "cosine":
        vectors, users = unit_rows(vectors), unit_rows(users)
    barred = np.flatnonzero(~tables.is_trained)
    for start, stop in blocks(len(cases), max(1, BLOCK_BYTES // (4 * len(num_events)))):
        scores_BN = users[start:stop] @ vectors.T
        scores_BN[:, barred] = -np.inf
        mask_scores(scores_BN, cases.masked.block(start, stop))
        yield start, stop, scores_BN
