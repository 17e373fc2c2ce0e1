"""What a tower model is exported with: its metric, and the popularity term that serves the validation slice best.

    trained vectors, train histories, validation items  ->  {"popularity_term": .05, ...}

score = sim(user, item) + term x (log train events, centred): rare items are often told too well by the few users that
have them, and a small term puts that right.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspark.config.schema import ModelConfig
from recspark.evaluate.histories import Cases
from recspark.evaluate.ranking import RANKING_METRICS, find_hits
from recspark.evaluate.ranking_head_file import FACT as HEAD
from recspark.evaluate.top_k import BLOCK_BYTES, blocks, mask_scores, top_k
from recspark.logs import log
from recspark.training.inputs import TrainInputs
from recspark.training.readout import popularity_bias, unit_rows
from recspark.training.readout_cases import read_valid_cases
from recspark.training.towers.result import TowerResult
from recspark.training.world import World

_BLOCK_USERS = 128


def find_tower_readout(config: ModelConfig, inputs: TrainInputs, result: TowerResult, world: World) -> dict[str, Any]:
    """The facts that readers of the model go by. Collective; the same on every rank. The term is chosen for what is
    retrieved, whatever a ranking head makes of it.

    Raises: DataError when the term is `auto` and no user has both train and validation items.
    """
    one_sided = result.query is result.candidate
    facts: dict[str, Any] = {
        "readout": "output" if one_sided else "input_output",
        "metric": config.metric,
        "centred": False,
        "history_decay": 1.0,
        "history_items": None,
        "item_features": [feature["name"] for feature in result.features.get("item", [])],
        "user_tower": result.users.spec.to_facts(),
    }
    if result.head:
        facts[HEAD] = result.head.spec.to_facts()
    if "popularity_term" not in config.autos:
        return facts | {"popularity_term": float(config.popularity_term)}
    assert inputs.user_histories, "the config is checked for users"
    search = config.readout_search
    columns = result.users.spec.event_columns
    cases = read_valid_cases(inputs.user_histories, inputs.num_events, search, world, columns)
    values = score_terms(result, cases, inputs.num_events, config, world)
    best = max(values, key=lambda term: values[term])  # of equals the first
    if world.rank == 0:
        shown = {f"at {term:g}": round(value, 5) for term, value in values.items()}
        log("train", f"{search.metric} on {len(cases):,} users by popularity_term, chosen {best:g}", **shown)
    found = {"metric": search.metric, "users": len(cases), "results": {str(term): v for term, v in values.items()}}
    return facts | {"popularity_term": best, "readout_search": found}


def score_terms(
    result: TowerResult, cases: Cases, num_events: NDArray[np.int64], config: ModelConfig, world: World
) -> dict[float, float]:
    """The mean of `model.readout_search.metric` over the users, by popularity term; ranks share them. Collective."""
    name, k = config.readout_search.metric.split("@")
    metric, terms = RANKING_METRICS[name], config.readout_search.popularity_terms
    items = unit_rows(result.candidate) if config.metric == "cosine" else result.candidate
    biases = [popularity_bias(num_events, result.is_listed, term) for term in terms]
    parts = list(blocks(len(cases), max(1, min(_BLOCK_USERS, BLOCK_BYTES // (4 * len(items))))))
    sums = np.zeros((len(parts), len(terms)))
    for place in range(world.rank, len(parts), world.world_size):
        start, stop = parts[place]
        scores_BN = score_users(result, cases, start, stop, items, config.metric)
        relevant = cases.relevant.block(start, stop)
        for column, bias in enumerate(biases):
            hits_BK = find_hits(top_k(scores_BN + bias, int(k)).ids, relevant)
            sums[place, column] = metric(hits_BK, relevant.lengths, int(k)).sum()
    total = np.reshape(world.sum_over_ranks(sums.ravel().tolist()), sums.shape).sum(axis=0)
    return {term: float(value) for term, value in zip(terms, total / len(cases), strict=True)}


def score_users(
    result: TowerResult, cases: Cases, start: int, stop: int, items: NDArray[np.float32], metric: str
) -> NDArray[np.float32]:
    """Similarities [B, N] of a block of users to ``items``; -inf for what must not be listed."""
    history, context = cases.history.block(start, stop), cases.context.block(cases.history, start, stop)
    users = result.encode_users(history, cases.user_idx[start:stop], context)
    flat = users.reshape(-1, users.shape[-1])
    scores_BN = (unit_rows(flat) if metric == "cosine" else flat) @ items.T
    if users.ndim == 3:
        scores_BN = scores_BN.reshape(len(users), users.shape[1], -1).max(axis=1)
    scores_BN[:, ~result.is_listed] = -np.inf
    mask_scores(scores_BN, cases.masked.block(start, stop))
    return np.asarray(scores_BN, np.float32)
