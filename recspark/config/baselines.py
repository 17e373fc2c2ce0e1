"""Section `baselines`: which models stand beside the trained one, and the knobs of each, also where it is the model."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from recspark.config.graph import GraphConfig
from recspark.config.section import Decay, Section

BaselineName = Literal["popularity", "item_knn", "rp3beta", "ease", "als", "ppmi_svd", "spectral"]
LIST_KINDS = ("popularity", "item_knn", "rp3beta", "ease", "als")
"""They rank lists: no train stage, no index, nothing to query. The factors of `als` serve its own lists only, as its
users are solved for and not a mean of items."""
CLOSED_FORM_KINDS = ("ppmi_svd", "spectral")
"""They yield item vectors by linear algebra: a train stage without a corpus, steps or ranks."""
SCORED_BY = ("readout", "metric", "popularity_term", "history_decay", "history_items")
"""Knobs that section `model` has too: of a closed-form baseline beside a model, its own count, else the model's."""
EDGE_LIST_KINDS = ("spectral",)
"""Baselines that a graph without users is enough for."""


class PopularityConfig(Section):
    """The items with the most train events."""

    half_life_days: PositiveFloat | None = None
    """Recency: an event's weight halves with every so many days before the newest train event; none by default."""


class ItemKnnGraphConfig(GraphConfig):
    """A graph with the settings that serve neighbour models: long users damped, popular candidates favoured."""

    group: Literal["session", "user"] = "user"
    """What two items must share to count as co-occurring; also the unit of support."""
    num_neighbours: PositiveInt | None = 200
    """Neighbours kept an item; ties go to the smaller id. None keeps all."""
    source_exponent: NonNegativeFloat = 0.75
    """Of `cosine`: power of the source item's count."""
    candidate_exponent: NonNegativeFloat = 0.3
    """Of `cosine`: power of the neighbour's count; lower favours popular neighbours."""


class HistoryConfig(Section):
    """What baselines share that sum over a history. Items that one knows nothing about take no place."""

    history_decay: Decay = 1.0
    """The item at place i from the last of a history weighs history_decay^i: 1 weighs all alike, .5 halves with every
    item, near 0 only the last one counts."""
    history_items: PositiveInt | None = None
    """Only so many last items of a history count; all by default."""


class ItemKnnConfig(HistoryConfig):
    """Neighbour baseline: sum of a candidate's graph scores over the history."""

    graph: ItemKnnGraphConfig = ItemKnnGraphConfig()
    """Its own graph."""


class Rp3BetaConfig(HistoryConfig):
    """Three steps of a walk user -> item -> user -> item, popular ends held back (Paudel et al. 2017)."""

    item_alpha: NonNegativeFloat = 0.7
    """Power of the step item -> user: each weighs (users of the item)^-item_alpha."""
    user_alpha: NonNegativeFloat = 0.7
    """Power of the step user -> item: each weighs (items of the user)^-user_alpha; higher damps long users."""
    beta: NonNegativeFloat = 0.3
    """A candidate's score is divided by (users of the item)^beta."""
    num_neighbours: PositiveInt | None = None
    """Candidates kept an item; ties go to the smaller id. None keeps all: best, and needs memory for all pairs."""


class EaseConfig(HistoryConfig):
    """A linear item-item model in closed form (Steck 2019)."""

    l2: PositiveFloat = 250.0
    """Regularisation: added to the diagonal of the co-occurrence matrix."""
    max_items: PositiveInt = 20_000
    """Refused above so many items with train events: it takes 12 bytes x items^2 (4.5 GiB here), time ~ items^3."""


class AlsConfig(Section):
    """Matrix factors of implicit feedback by alternating least squares (Hu, Koren & Volinsky 2008), made by Spark's
    MLlib in a stage of their own, with MLlib's defaults. Their length is `model.embedding_dim`.
    """

    alpha: PositiveFloat = 1.0
    """An item of a history counts 1 + alpha against the 1 of all others."""
    regularisation: PositiveFloat = 0.1
    """L2 penalty on a factor, times the number of its ratings."""
    num_iterations: PositiveInt = 10
    """Times that items and users are solved for in turn."""


class _VectorBaselineConfig(HistoryConfig):
    """What baselines with item vectors share. Their length is `model.embedding_dim`.

    readout, metric, popularity_term, history_decay and history_items say how they are scored beside a model; where the
    baseline is the model itself (`model.kind`), section `model` says it.
    """

    readout: Literal["input", "output", "sum", "input_output"] = "input"
    """Users and candidates by input vectors, by output vectors, by their sum, or users by input and candidates by
    output ones."""
    metric: Literal["cosine", "ip"] = "cosine"
    """How the two are compared."""
    popularity_term: float = 0.1
    """Added to a score: this x centred log(train events)."""


class PpmiSvdConfig(_VectorBaselineConfig):
    """Factors of items' shifted positive pointwise mutual information (Levy & Goldberg 2014), by the users they
    share in train histories.
    """

    length_power: NonNegativeFloat = 0.5
    """A pair of a user with l distinct items counts l^-length_power: long users say less."""
    smoothing: PositiveFloat = 0.75
    """Power of the context distribution (Levy et al. 2015)."""
    shift: PositiveFloat = 1.0
    """log of this is subtracted (number of negatives)."""
    singular_value_power: NonNegativeFloat = 0.5
    """Both factors are scaled by the singular values to this power (Levy et al. 2015: 0 or .5). At 0, a
    model.embedding_dim of more than half of the items is refused: too many to tell items apart."""
    num_iterations: NonNegativeInt = 4
    """Power iterations of the randomised SVD (Halko et al. 2011)."""


class SpectralConfig(_VectorBaselineConfig):
    """Leading eigenvectors of the normalised graph: users x items of the train part, or an edge list's own."""

    eigenvalue_power: NonNegativeFloat = 0.0
    """Eigenvectors are scaled by their eigenvalues to this power. At 0, skip + model.embedding_dim of more than half of
    the items with an edge are refused: too many to tell items apart."""
    skip: Annotated[int, Field(ge=0)] = 0
    """Leading eigenvectors left out: the first of a connected graph only says how popular an item is."""


class BaselinesConfig(Section):
    """Models that always stand beside the trained one."""

    names: tuple[BaselineName, ...] = ("popularity", "item_knn")
    """Which."""
    popularity: PopularityConfig = PopularityConfig()
    """Of `popularity`."""
    item_knn: ItemKnnConfig = ItemKnnConfig()
    """Of `item_knn`."""
    rp3beta: Rp3BetaConfig = Rp3BetaConfig()
    """Of `rp3beta`."""
    ease: EaseConfig = EaseConfig()
    """Of `ease`."""
    als: AlsConfig = AlsConfig()
    """Of `als`."""
    ppmi_svd: PpmiSvdConfig = PpmiSvdConfig()
    """Of `ppmi_svd`."""
    spectral: SpectralConfig = SpectralConfig()
    """Of `spectral`."""
