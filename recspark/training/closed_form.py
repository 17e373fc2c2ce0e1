"""A model in closed form: item vectors by linear algebra, published like a trained one.

user_histories (or an edge list's item_graph) -> ItemFactors -> models/<model_id>, user_embeddings, item_embeddings
"""

import time
from typing import Any

from recspark.baselines.registry import BaselineInputs, build_factors
from recspark.config import Run
from recspark.logs import log
from recspark.training.inputs import TrainInputs
from recspark.training.model_files import TrainedModel
from recspark.training.readout_search import find_readout
from recspark.training.tables import SkipGramTables
from recspark.training.world import World


def fit_closed_form(run: Run, inputs: TrainInputs) -> TrainedModel:
    """The model of a run whose ``model.kind`` is one of `CLOSED_FORM_KINDS`; its two tables are the two factors.

    Raises: DataError, SetupError or TrainingError where histories or graph do not give vectors.
    """
    model, started = run.config.model, time.monotonic()
    sources = BaselineInputs(run.config, inputs.num_events, inputs.user_histories, inputs.item_graph)
    factors = build_factors(model.kind, sources)
    counts = factors.counts | {"seconds": round(time.monotonic() - started, 1)}
    facts: dict[str, Any] = {
        "embedding_dim": model.embedding_dim,
        "model_id": run.stages["train"].id,
        "model_kind": model.kind,
        "backend": "closed form",
    }
    log("train", f"{model.kind} in closed form", **counts)
    tables = SkipGramTables(factors.input, factors.output, factors.is_known)
    facts |= find_readout(model, inputs, lambda _: tables, World())
    return TrainedModel(tables, range(len(inputs.num_events)), counts, facts)
