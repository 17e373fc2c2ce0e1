"""Section `graph`: knobs of an item-item co-occurrence graph, the run's own or a baseline's."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from recspark.config.section import Section


class GraphConfig(Section):
    """The item-item co-occurrence graph."""

    group: Literal["session", "user"] = "session"
    """What two items must share to count as co-occurring; also the unit of support."""
    score: Literal["count", "cosine", "jaccard", "lift", "ppmi", "llr"] = "cosine"
    """count: the weighted sum. cosine: c / (n_i n_j)^.5, see the exponents. jaccard: c / (n_i + n_j - c). lift:
    c N / (n_i n_j). ppmi: positive pointwise mutual information with context smoothing. llr: Dunning's log-likelihood
    ratio of the supports, whatever pairs weigh."""
    num_neighbours: PositiveInt | None = 50
    """Neighbours kept an item; ties go to the smaller id. None keeps all."""
    source_exponent: NonNegativeFloat = 0.5
    """Of `cosine`: power of the source item's count."""
    candidate_exponent: NonNegativeFloat = 0.5
    """Of `cosine`: power of the neighbour's count; lower favours popular neighbours."""
    ppmi_smoothing: PositiveFloat = 0.75
    """Of `ppmi`: power of the context distribution (Levy et al. 2015)."""
    ppmi_shift: PositiveFloat = 1.0
    """Of `ppmi`: log of this is subtracted (number of negatives, Levy & Goldberg 2014)."""
    length_power: NonNegativeFloat = 0.5
    """A pair of a session with l distinct items weighs l^-length_power: long sessions say less."""
    distance_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """A pair d places apart weighs decay^(d-1); 1 ignores the order."""
    window: PositiveInt | None = None
    """Only pairs at most this many places apart; the whole session by default."""
    half_life_days: PositiveFloat | None = None
    """Recency: a session's weight halves with every so many days before the newest one."""
    use_event_weights: bool = False
    """Multiply a pair by the weights of its two events."""
    min_support: PositiveInt = 1
    """Pairs with fewer distinct sessions (or users) are dropped."""
    support: Literal["unit", "user"] = "unit"
    """What `min_support`, column `count` and the score llr count: the units of `group`, or the distinct users behind
    sessions, so that one busy user is no support."""
    max_session_items: PositiveInt = 1000
    """Newest events of a session (or user) that pair with each other; what is cut is counted."""
    max_user_events: PositiveInt | None = None
    """Of `group` session: newest train events of a user whose sessions pair, the oldest of them cut; counted."""
    incremental: bool = False
    """Keep all pair sums in table item_pair_sums, so that new, changed and expired days of sessions cost their own
    pairs only. Needs group session and support unit, without half_life_days and max_user_events."""
    edge_table: bool = False
    """Also write the run's graph as table item_graph_edges, a row an edge, for GraphFrames and Spark SQL."""
    num_blocks: PositiveInt | None = None
    """Blocks of equal cost in the shuffle; planned from cores and memory by default."""
    task_memory_mb: PositiveInt = 1024
    """What one task may hold."""

    @model_validator(mode="after")
    def _check_score(self) -> "GraphConfig":
        if self.score == "jaccard" and self.use_event_weights:
            raise ValueError("score: jaccard needs pairs that weigh at most 1; turn use_event_weights off")
        return self

    @model_validator(mode="after")
    def _check_cap(self) -> "GraphConfig":
        if self.group == "user" and self.max_user_events:
            raise ValueError("max_user_events goes with group session; with group user, max_session_items is the cap")
        return self

    @model_validator(mode="after")
    def _check_incremental(self) -> "GraphConfig":
        """What a day contributes must not hang on other days."""
        if not self.incremental:
            return self
        found = {
            "group user (a history grows by the day)": self.group == "user",
            "half_life_days (every weight changes with the newest day)": self.half_life_days is not None,
            "support user (a user's days overlap)": self.support == "user",
            "max_user_events (a new day cuts old ones)": self.max_user_events is not None,
        }
        if reasons := [name for name, is_set in found.items() if is_set]:
            raise ValueError(f"incremental does not go with {', '.join(reasons)}; change that, or turn it off")
        return self
