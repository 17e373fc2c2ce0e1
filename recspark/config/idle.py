"""Knobs that were given a value but cannot take effect under what the rest of the config says."""

from collections.abc import Iterator
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

from recspark.config.baselines import LIST_KINDS
from recspark.config.index import find_idle_index_knobs
from recspark.config.learning import AUTOS
from recspark.config.section import Section
from recspark.config.tower_checks import find_idle_towers
from recspark.config.trainer import NOT_IN_KEY

if TYPE_CHECKING:
    from recspark.config.schema import RunConfig

_OF_NOISE = ("num_negatives", "shared_negatives", "noise_exponent", "num_group_negatives", "mask_positives")
_SEARCHED = {"readout": "readouts", "popularity_term": "popularity_terms", "history_decay": "history_decays"}
"""Knob of `model` -> what of `model.readout_search` is tried for it where it is `auto`."""
_OF_VECTORS = ("objective", "readout", "metric", "centred", "popularity_term")


class Idle(NamedTuple):
    """Knobs of ``section`` that are idle because of the value of key ``because``, and of the ``further`` ones."""

    section: str
    names: tuple[str, ...]
    because: str
    why: str
    further: tuple[str, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """All keys that it hangs on."""
        return (self.because, *self.further)


_EDGES_OF_BASELINE = Idle(
    "baselines.item_knn.graph", ("edge_table",), "graph", "only the graph of section graph is written as edges too"
)


def find_idle(config: "RunConfig", overridden: frozenset[str]) -> Iterator[tuple[str, ...]]:
    """(line, keys it hangs on) of each group of knobs that differ from their defaults in vain.

    ``overridden`` are the keys given beside the file: one that switches a file's model leaves the file's knobs of the
    other models idle, which is no mistake.
    """
    of_model = _idle_of_model(config) if not config.model.has_corpus else _idle_of_training(config)
    of_index = (Idle("index", names, key, why) for names, key, why in find_idle_index_knobs(config.index))
    for idle in (*of_model, *_idle_of_search(config), *of_index, _EDGES_OF_BASELINE):
        keys = [f"{idle.section}.{name}" for name in idle.names if _is_given(config, idle.section, name)]
        if any(_is_under(key, overridden) for key in idle.reasons):
            keys = [key for key in keys if _is_under(key, overridden)]
        if keys:
            it = "leave it out" if len(keys) == 1 else "leave them out"
            yield f"{', '.join(keys)}: {idle.why}; {it}", *keys, *idle.reasons


def _idle_of_model(config: "RunConfig") -> Iterator[Idle]:
    """Of a model without a corpus."""
    kind = config.model.kind
    of_training = tuple(name for name in type(config.training).model_fields if name not in NOT_IN_KEY)
    what = "only ranks lists" if kind in LIST_KINDS else "is in closed form"
    yield Idle("training", of_training, "model.kind", f"model.kind {kind} {what} and reads no training settings")
    if kind in LIST_KINDS:
        yield Idle("model", _OF_VECTORS, "model.kind", f"model.kind {kind} has no vectors")
        return
    yield Idle("model", ("objective",), "model.kind", f"model.kind {kind} is in closed form and has one of its own")
    if kind == "spectral":
        yield Idle("model", ("readout",), "model.kind", "model.kind spectral has one vector an item to read out")


def _idle_of_training(config: "RunConfig") -> Iterator[Idle]:
    """Of a model that learns in steps."""
    yield from (Idle(*found) for found in find_idle_towers(config))
    if config.model.has_towers:
        return
    yield from _idle_of_walks(config)
    if config.model.objective == "hierarchical_softmax":
        yield Idle("training", _OF_NOISE, "model.objective", "hierarchical_softmax draws no negatives")
    elif config.training.negative_group is None:
        names, why = ("num_group_negatives",), "goes with training.negative_group, which is not given"
        yield Idle("training", names, "training.negative_group", why)
    if config.training.window == "session":
        why = "window session holds the whole sequence, nothing is drawn"
        yield Idle("training", ("dynamic_window",), "training.window", why)


def _idle_of_search(config: "RunConfig") -> Iterator[Idle]:
    """Of the choice of readout on the validation slice, where nothing or not this is left to it."""
    section, model = "model.readout_search", config.model
    if not model.autos:
        knobs = [f"model.{name}" for name in AUTOS]
        why = f"goes with auto in {', '.join(knobs[:-1])} or {knobs[-1]}, and none is"
        yield Idle(section, tuple(type(model.readout_search).model_fields), knobs[0], why, tuple(knobs[1:]))
        return
    for name, tried in _SEARCHED.items():
        if name not in model.autos:
            yield Idle(section, (tried,), f"model.{name}", f"goes with model.{name}: auto")


def _idle_of_walks(config: "RunConfig") -> Iterator[Idle]:
    """Of walks that some knobs cannot change."""
    if (walks := config.walks) is None:
        return
    if walks.variant == "node2vec":
        yield Idle("walks", ("gamma",), "walks.variant", "goes with walks.variant: node2vec_plus")
    elif walks.q == 1.0:
        yield Idle("walks", ("variant",), "walks.q", "with walks.q 1, node2vec_plus is node2vec")
    elif not walks.weighted:
        yield Idle("walks", ("variant",), "walks.weighted", "with walks.weighted: false, node2vec_plus is node2vec")
    if walks.mode == "replicated":
        yield Idle("walks", ("num_shards",), "walks.mode", "goes with walks.mode: sharded or auto")


def _is_given(config: "RunConfig", section: str, name: str) -> bool:
    """Whether a knob has another value than its default."""
    holder: Section = reduce(getattr, section.split("."), config)
    field = type(holder).model_fields[name]
    return bool(getattr(holder, name) != field.get_default(call_default_factory=True))


def _is_under(key: str, overridden: frozenset[str]) -> bool:
    """Whether a key is overridden: itself, a section around it, or something in it."""
    return any(f"{key}.".startswith(f"{one}.") or one.startswith(f"{key}.") for one in overridden)
