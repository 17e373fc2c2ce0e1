"""Section `model.towers`: a user tower, an item tower, what they are compared by and against what.

score(user, item) = sim(user tower(history, id, features), item tower(id, features)) + bias
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from recspark.config.section import Section

TOWER_KINDS = ("two_tower", "mf", "light_gcn")
"""Values of model.kind that this section is about."""
TowerKind = Literal["two_tower", "mf", "light_gcn"]
Rate = Annotated[float, Field(ge=0, lt=1)]


class MlpConfig(Section):
    """Layers behind the sum of a tower's inputs; none by default: a tower is then that sum."""

    hidden: tuple[PositiveInt, ...] = ()
    """Widths of hidden layers; a last layer leads back to `embedding_dim`."""
    activation: Literal["relu", "gelu"] = "relu"
    """Behind each hidden layer."""
    norm: Literal["none", "layer", "batch"] = "layer"
    """Of each hidden layer's input. batch: over the rows of all ranks."""
    dropout: Rate = 0.0
    """Of each hidden layer's output, in training."""
    residual: bool = True
    """Add the tower's input to its output."""


class HistoryConfig(Section):
    """How what a user has done becomes a vector. Only items before the target are looked at."""

    pooling: Literal["none", "mean", "decay", "attention", "multi_interest"] = "decay"
    """mean: all items alike; with max_items the last k. decay: an item d places before the last weighs exp(-g d), g is
    learned. attention: a causal transformer with positions (Kang & McAuley 2018). multi_interest: several vectors a
    user, each a weighted mean by an attention of its own; the nearest counts (Cen et al. 2020)."""
    max_items: PositiveInt = 50
    """Only so many last items of a history are looked at, and learned from."""
    length_power: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Of `mean`: the sum of n items is divided by n^this; below 1, long histories outweigh `user.id` and features."""
    event_weights: bool = False
    """An event counts its weight (`source.columns.weight` x `clean.event_weights`; watch time, purchase against view),
    in all poolings: one of weight w as w events like it would, in `attention` by log w on its scores. One of weight 0
    counts next to nothing, but is a target like any other."""
    num_heads: PositiveInt = 2
    """Of `attention`."""
    num_layers: PositiveInt = 1
    """Of `attention`."""
    dropout: Rate = 0.2
    """Of a history's items (all poolings), and inside `attention`."""
    num_interests: PositiveInt = 4
    """Of `multi_interest`: vectors a user."""
    shared: bool = True
    """Items of a history are read by the item tower; false: by a table of their own, without features."""


class UserTowerConfig(Section):
    """What a user's vector is made of: history, id and features are added up."""

    id: bool = False
    """A vector of his own. Users unseen in training have none: they are told by history and features alone."""
    features: tuple[str, ...] = ()
    """User features (section `features`)."""
    time_features: tuple[Literal["hour_of_day", "day_of_week", "time_since_last"], ...] = ()
    """What of the moment counts at which a user is asked for. hour_of_day, day_of_week: in UTC. time_since_last: since
    the last event of the history strictly before it, in buckets that double from a minute to a year. In training the
    moment is the target's time; `evaluate` takes that of a user's first held out event, `recspark query` and
    `recommend` now, or a time given. Needs times and `targets: next`."""
    history: HistoryConfig = HistoryConfig()
    mlp: MlpConfig = MlpConfig()


class NeighboursConfig(Section):
    """Of `two_tower`: an item is read together with the items that short random walks over the users' train histories
    visit most from it, weighted by visits (PinSage, Ying et al. 2018)."""

    count: NonNegativeInt = 0
    """So many neighbours an item; 10 to 50 where they are wanted, 0 for none."""
    num_walks: PositiveInt = 100
    """Walks from each item."""
    walk_length: PositiveInt = 3
    """Steps item -> user -> item of a walk at most."""
    restart_probability: Rate = 0.5
    """Chance that a walk is over after a step and the next one starts; near 0, walks go far."""

    @model_validator(mode="after")
    def _check_visits(self) -> "NeighboursConfig":
        visits = self.num_walks * self.walk_length
        if self.count > visits:
            raise ValueError(f"count must be at most num_walks x walk_length, which is {visits}, got {self.count}")
        return self


class ItemTowerConfig(Section):
    """What an item's vector is made of: id and features are added up, neighbours joined to them."""

    id: bool = True
    """A vector of its own."""
    features: tuple[str, ...] = ()
    """Item features (section `features`): categorical, multi, numeric (in buckets), vector."""
    id_dropout: Rate = 0.1
    """In training, ids are left out of this share of the items, so that features carry and an item without events can
    be served; of half of these their neighbours too. Of a tower with features only."""
    num_buckets: Annotated[int, Field(ge=2, le=1024)] = 32
    """Numeric features are cut into so many buckets of equally many items, in both towers."""
    fusion: Literal["sum", "gate"] = "sum"
    """gate: each feature is multiplied by a learned sigmoid of itself first, in both towers."""
    neighbours: NeighboursConfig = NeighboursConfig()
    mlp: MlpConfig = MlpConfig()


class ExplicitConfig(Section):
    """Negatives from events: what a user was shown and passed over (impressions, skips) is a negative of his own rows.

    Such an event is never history, target or count of anything; table `user_negatives` has those of the train part of
    the split, on items with train events. No item that the user has a positive event for is his negative. With
    `targets: next` a row has the newest ones at or before its target's time; else, as the row has no time, any run of
    them that is drawn each epoch.
    """

    event_types: Annotated[tuple[str, ...], Field(min_length=1, max_length=127)]
    """Such as [impression, skip]. `clean` must leave them out of histories, by `clean.event_types` or a weight of 0."""
    num: PositiveInt = 4
    """So many events a row; an item that is there twice counts once."""
    weight: PositiveFloat = 1.0
    """What one counts beside a candidate that is expected once. They are not drawn, so logQ leaves them as they are;
    of the whole catalogue, each stands in the sum once more."""
    max_events: PositiveInt = 1000
    """Only so many newest of a user are kept in the table."""


class NegativesConfig(Section):
    """What a positive is compared with. A mixture counts by exact expected counts (logQ)."""

    kind: Literal["auto", "full", "sampled"] = "auto"
    """full: the whole catalogue, exactly. sampled: as below. auto: full up to `full_max_items`; with `targets: next`,
    where a user has many rows of scores, up to a tenth of that."""
    full_max_items: PositiveInt = 50_000
    """Of `auto`."""
    in_batch: bool = True
    """The targets of all users of the global batch, of all ranks."""
    uniform: NonNegativeInt = 1024
    """So many items a batch drawn alike."""
    popularity: NonNegativeInt = 0
    """So many items a batch drawn by train events to the power of `popularity_exponent`."""
    popularity_exponent: Annotated[float, Field(ge=-1, le=1)] = 0.5
    """Of `popularity`."""
    queue: NonNegativeInt = 0
    """So many vectors of earlier batches' targets are kept and compared with too, as they were (CBNS, Wang et al.
    2021)."""
    queue_after_steps: NonNegativeInt = 500
    """Before, vectors change too fast to be kept."""
    hard_model: NonNegativeInt = 0
    """So many negatives a row, besides the others, of the items that the current model has next to a target."""
    hard_first_rank: NonNegativeInt = 100
    """Of `hard_model`: nearer ones are too often what the user wants next."""
    hard_last_rank: PositiveInt = 500
    """Of `hard_model`: ranks from the first to below this one are drawn from."""
    hard_refresh_steps: PositiveInt = 200
    """Steps between two minings."""
    hard_graph: NonNegativeInt = 0
    """So many negatives a row from the neighbours' neighbours of its history's items, none of them in it."""
    hard_full_epoch: NonNegativeInt = 5
    """Curriculum: hard negatives start at none and reach their number, evenly, at the start of this epoch."""
    explicit: ExplicitConfig | None = None
    """Negatives from events, such as impressions and skips; none by default."""
    log_q: bool = True
    """Correct sampled candidates by their expected count (Bengio & Senecal 2008; Yi et al. 2019). false: InfoNCE as
    is, which punishes popular items; only for ablations."""

    @model_validator(mode="after")
    def _check_ranks(self) -> "NegativesConfig":
        if self.hard_first_rank >= self.hard_last_rank:
            raise ValueError(
                f"hard_first_rank must be below hard_last_rank, got {self.hard_first_rank} and {self.hard_last_rank}"
            )
        return self


class RankingConfig(Section):
    """A head that ranks what the towers retrieve once more, by target attention over the history (DIN, Zhou et al.
    2018). What is served, by evaluate, query, recommend and releases, is its order."""

    kind: Literal["none", "target_attention"] = "none"
    """target_attention: how much an item of the history counts hangs on the candidate that is looked at. Needs a
    `user.history` with one vector a user: mean, decay or attention."""
    candidates: PositiveInt = 200
    """So many items a list are retrieved and ranked again (k, where that is more), and learned to be told apart."""
    attention_hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (32,)
    """Widths of the layers that weigh an item of the history against a candidate."""
    weights: Literal["raw", "softmax"] = "raw"
    """raw: as the layers give them, so that a history with much of a kind says more (Zhou et al. 2018). softmax: they
    add up to 1."""
    positions: bool = True
    """How many items ago an event was is learned too, in the weights. Needs an order."""
    hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (64, 32)
    """Widths of the layers that make a score of user, candidate and what was pooled."""
    activation: Literal["prelu", "relu"] = "prelu"
    """Behind each hidden layer; prelu: with a learned slope a layer."""
    dropout: Rate = 0.1
    """Of the hidden layers of the score, in training."""
    loss: Literal["softmax", "bce"] = "softmax"
    """softmax: a target against its negatives. bce: each on its own (logistic), the negatives together weighing 1."""
    num_negatives: PositiveInt = 20
    """So many negatives a target, drawn from the first `candidates` of what the step compares with, as the towers are
    at that step; nothing of the user's own."""
    max_targets: PositiveInt = 4
    """So many targets of each user of a batch, drawn anew each epoch, are learned from."""
    joint: NonNegativeFloat = 0.0
    """How much of its gradient goes on to the towers. 0: they learn as they would without it; 1: the sum of both
    losses."""

    @model_validator(mode="after")
    def _check_negatives(self) -> "RankingConfig":
        if self.num_negatives > self.candidates:
            raise ValueError(f"num_negatives must be at most candidates ({self.candidates}), got {self.num_negatives}")
        return self


class PropagationConfig(Section):
    """Of `light_gcn`: vectors are averaged over the user-item graph instead of being looked up."""

    num_layers: PositiveInt = 3
    """Steps of propagation whose results are added up."""
    user_exponent: Annotated[float, Field(ge=0, le=1)] = 0.35
    """An edge weighs user degree^-this x item degree^-`item_exponent`, scaled to spectral norm 1. He et al. 2020 have
    .5 for both."""
    item_exponent: Annotated[float, Field(ge=0, le=1)] = 0.35
    """See `user_exponent`."""
    with_ids: bool = False
    """Add the unpropagated vectors too, as He et al. 2020. Without them a user is exactly a weighted sum over his
    items: new users need no training."""


class TowersConfig(Section):
    """What `two_tower`, `mf` and `light_gcn` are made of. Similarity is `model.metric`: cosine with a temperature, or
    ip."""

    targets: Literal["auto", "next", "rest", "all"] = "auto"
    """next: each prefix of a history predicts the item after it. rest: a drawn part of a history predicts the others.
    all: a user predicts all his items, without a history as input. auto: all for mf and light_gcn, else next where the
    source has an order, else rest."""
    input_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Of `targets: rest`: the chance that an item is input instead of target."""
    user_weight_power: Annotated[float, Field(ge=0, le=1)] = 0.0
    """A user's targets weigh 1 / n^this each."""
    loss: Literal["softmax", "bce", "bpr", "triplet", "ccl"] = "softmax"
    """softmax: over all candidates. bce: each on its own (logistic). bpr: pairs of positive and negative (Rendle et al.
    2009). triplet: the same by a hinge. ccl: cosine contrastive (Mao et al. 2021, SimpleX)."""
    margin: NonNegativeFloat = 0.8
    """Of `triplet` (how far a positive must be ahead) and `ccl` (similarities of negatives above it cost), in units of
    the similarity."""
    negative_weight: PositiveFloat = 1.0
    """Of `bce` and `ccl`: what all negatives of a positive weigh together."""
    temperature: PositiveFloat = 0.1
    """Cosine similarities are divided by it; .15 is much worse, .07 slightly. Without effect on `metric: ip`, `triplet`
    and `ccl`."""
    learn_temperature: bool = False
    """Start from `temperature` and learn it."""
    chunk_rows: PositiveInt = 256
    """Rows of scores computed and held at a time: memory, never the result."""
    score_precision: Literal["float32", "bfloat16"] = "float32"
    """Of the products of vectors; sums stay float32. bfloat16 is twice as fast where the processor has it."""
    user: UserTowerConfig = UserTowerConfig()
    item: ItemTowerConfig = ItemTowerConfig()
    negatives: NegativesConfig = NegativesConfig()
    ranking: RankingConfig = RankingConfig()
    """Of two_tower."""
    start: Literal["spectral", "random"] = "spectral"
    """Of light_gcn and mf. spectral: from the leading singular vectors of the weighted graph (`propagation`), which
    saves most epochs."""
    propagation: PropagationConfig = PropagationConfig()


_SHARED_DEFAULTS: dict[str, object] = {"corpus": "histories", "learning_rate": 0.02, "init_scale": 1.4}
KIND_DEFAULTS: dict[str, dict[str, dict[str, object]]] = {
    "two_tower": {"training": {**_SHARED_DEFAULTS, "epochs": 8, "batch_sequences": 512}},
    "mf": {"training": {**_SHARED_DEFAULTS, "epochs": 15, "batch_sequences": 2048}},
    "light_gcn": {"training": {**_SHARED_DEFAULTS, "epochs": 10, "batch_sequences": 2048}},
}
"""What stands in, by kind, where these keys are not given: section `training` has the defaults of skip-gram."""


def fill_in(values: dict[str, object]) -> dict[str, object]:
    """A config's values with the defaults of its kind below them; as they came for all other kinds."""
    model = values.get("model")
    kind = model.get("kind") if isinstance(model, dict) else getattr(model, "kind", None)
    filled = dict(values)
    for section, defaults in KIND_DEFAULTS.get(str(kind), {}).items():
        given = values.get(section, {})
        if isinstance(given, dict):
            filled[section] = {**defaults, **given}
    return filled
