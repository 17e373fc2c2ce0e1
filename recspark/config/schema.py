"""The sections of a run's config. Every default is what a user gets on his own data."""

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    model_validator,
)

from recspark.config.checks import WRONG, find_contradictions
from recspark.config.section import IsoTime, Section
from recspark.config.source import FeatureConfig, Share, SourceConfig
from recspark.config.trainer import DenseConfig, TrackersConfig


class RunSection(Section):
    """Facts of the whole run."""

    name: str = "recspark"
    """Shown in reports."""
    seed: NonNegativeInt = 1
    """Seed of everything that is drawn: generator, walks, model, index sample."""


class PathsConfig(Section):
    """Where results go."""

    lake: str = "lake"
    """Folder or URI (file, s3a, abfss, gs) that holds tables/, checkpoints/, models/, indexes/."""


class CleanConfig(Section):
    """Filters on events, before sessions; each counted under its name."""

    event_types: tuple[str, ...] | None = None
    """Keep only these types; all by default."""
    event_weights: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    """Multiplies the weight of an event by its type; 0 drops the type."""
    max_user_events: PositiveInt | None = None
    """Drop users with more events than this (bots), counted as `bot_users`."""
    max_events_per_minute: PositiveInt | None = None
    """Drop users with more events than this in any one minute (floods), counted as `flood_users`. Needs time."""
    min_user_events: PositiveInt = 1
    """Drop users with fewer events, counted as `rare_users`."""


class SessionsConfig(Section):
    """How a user's events become sessions."""

    group_by: Literal["gap", "basket", "user"] = "gap"
    """gap: a pause ends a session. basket: one a `basket_id`. user: all of a user is one."""
    gap_seconds: PositiveInt = 1800
    """A pause longer than this starts a new session."""
    max_items: PositiveInt = 200
    """A session is cut when it holds this many events."""
    max_span_seconds: PositiveInt = 86400
    """A session is cut when it spans more than this; only for `group_by: gap`."""
    collapse_repeats: bool = True
    """Consecutive events on one item become one (weights added), counted as `collapsed`."""


class VocabularyConfig(Section):
    """Which items get an id to learn from."""

    min_item_events: PositiveInt = 1
    """Items with fewer train events are dropped, counted as `rare_items`."""


class ValidConfig(Section):
    """The validation slice, cut from train before counts and graph."""

    kind: Literal["user_share", "last_k", "time", "given"] = "user_share"
    """user_share: a share of each user's train items by hash. last_k: each user's last k train events. time: train
    events from `cut` on. given: the source's own split column."""
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Of `user_share`."""
    k: PositiveInt = 1
    """Of `last_k`."""
    cut: IsoTime | None = None
    """Of `time`: ISO time, UTC."""
    seed: NonNegativeInt = 1
    """Of the hash."""

    @model_validator(mode="after")
    def _check_cut(self) -> "ValidConfig":
        if (self.kind == "time") != (self.cut is not None):
            raise ValueError("split.valid.cut goes with split.valid.kind: time, and is needed there")
        return self


class SplitConfig(Section):
    """What is learned from and what is scored."""

    kind: Literal["time", "given", "leave_last_out"] = "time"
    """time: events from `cut` on are test. given: column `split`. leave_last_out: a user's last event is test."""
    cut: IsoTime | None = None
    """Of `time`: ISO time (UTC where it names no zone); absolute, so part of the key."""
    valid: ValidConfig | None = None
    """A validation slice; none by default."""

    @model_validator(mode="after")
    def _check_cut(self) -> "SplitConfig":
        if (self.kind == "time") != (self.cut is not None):
            raise ValueError(
                "split.cut goes with split.kind: time, and is needed there (an ISO time such as 2026-02-16)"
            )
        return self


class GraphConfig(Section):
    """The item-item co-occurrence graph."""

    group: Literal["session", "user"] = "session"
    """What two items must share to count as co-occurring; also the unit of support."""
    score: Literal["count", "cosine", "jaccard", "ppmi"] = "cosine"
    """count: the weighted sum. cosine: c / (n_i n_j)^.5, see the exponents. jaccard: c / (n_i + n_j - c). ppmi:
    positive pointwise mutual information with context smoothing."""
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
    max_session_items: PositiveInt = 1000
    """Newest events of a session (or user) that pair with each other; what is cut is counted."""
    num_blocks: PositiveInt | None = None
    """Blocks of equal cost in the shuffle; planned from cores and memory by default."""
    task_memory_mb: PositiveInt = 1024
    """What one task may hold."""

    @model_validator(mode="after")
    def _check_score(self) -> "GraphConfig":
        if self.score == "jaccard" and self.use_event_weights:
            raise ValueError("score: jaccard needs pairs that weigh at most 1; turn use_event_weights off")
        return self


class WalksConfig(Section):
    """Second-order random walks over the item graph (node2vec)."""

    p: PositiveFloat = 1.0
    """Return parameter: below 1, walks step back more often (node2vec, section 3.2.2)."""
    q: PositiveFloat = 1.0
    """In-out parameter: below 1, walks move outward (node2vec, section 3.2.2)."""
    walk_length: Annotated[int, Field(ge=2)] = 20
    """Nodes a walk holds at most."""
    num_walks: PositiveInt = 10
    """Walks from each node and epoch."""
    num_epochs: PositiveInt = 1
    """Independent sets of walks."""
    weighted: bool = True
    """Steps in proportion to scores; false: uniform over neighbours."""
    symmetrize: bool = True
    """Join each edge with its reverse by the larger score: pruning leaves a directed graph."""
    max_degree: PositiveInt | None = None
    """After symmetrising, keep this many neighbours; all by default."""
    mode: Literal["auto", "replicated"] = "auto"
    """replicated: every host memory-maps the whole graph."""


class ModelConfig(Section):
    """What is learned."""

    kind: Literal["skip_gram"] = "skip_gram"
    """skip_gram: an input and an output vector an item (Mikolov et al. 2013; Barkan & Koenigstein 2016)."""
    embedding_dim: Annotated[int, Field(ge=2, le=4096)] = 64
    """Length of the vectors."""
    metric: Literal["cosine", "ip"] = "cosine"
    """How vectors are compared, by evaluation and index alike."""
    readout: Literal["input", "output", "sum", "input_output"] = "input"
    """Vectors exported: input or output table, their sum, or queries by input and candidates by output vectors."""
    centred: bool = False
    """Subtract the mean vector before export."""
    popularity_term: float = 0.0
    """bias = this x centred log(train events); chosen on a validation slice."""


class TrainingConfig(Section):
    """How it is learned."""

    corpus: Literal["walks", "sessions"] = "walks"
    """Sequences: walks over the item graph, or the sessions themselves."""
    backend: Literal["auto", "cpu", "torch"] = "auto"
    """cpu: the numba kernel, one process. torch: DDP by torchrun, gloo or NCCL. auto: says what it picked and why."""
    epochs: PositiveInt = 5
    """Passes over the corpus."""
    learning_rate: PositiveFloat = 0.5
    """Of row-wise Adagrad, falling linearly to a hundredth."""
    window: PositiveInt = 5
    """Context items on each side; drawn from 1..window for each centre (`dynamic_window`)."""
    dynamic_window: bool = True
    """Near items count more: the window is drawn for each centre."""
    num_negatives: PositiveInt = 5
    """Negatives each positive pair weighs against."""
    shared_negatives: PositiveInt = 64
    """Negatives shared by a block of short sentences (CPU kernel) or, 8 times as many, by a batch (torch); their weight
    is that of num_negatives."""
    noise_exponent: Annotated[float, Field(ge=-1, le=1)] = 0.5
    """Negatives are drawn by count^this (Caselles-Dupre et al. 2018: recommenders want less than .75)."""
    subsample: NonNegativeFloat = 0.0
    """Frequent items are dropped with this threshold (Mikolov et al. 2013, eq. 5); 0: never."""
    mask_positives: bool = True
    """A drawn negative that is a positive of the same window does not count: matters for small catalogues."""
    batch_sequences: PositiveInt = 1024
    """Sequences of a global batch; divided among lanes, so among ranks."""
    num_lanes: PositiveInt = 64
    """Streams of sequences; every number of ranks that divides it sees the same batches."""
    num_processes: PositiveInt = 1
    """torchrun processes that `recspark run` starts (one a GPU)."""
    num_threads: PositiveInt | None = None
    """CPU threads; all cores by default. The CPU kernel repeats exactly only with 1."""
    checkpoint_steps: PositiveInt = 500
    """Steps (global batches) between checkpoints; the CPU kernel counts the same batches."""
    keep_checkpoints: PositiveInt = 2
    """Newest checkpoints kept."""
    resume: Literal["auto", "required"] = "auto"
    """auto: from the latest checkpoint of this config and these inputs, else from the start. required: never from the
    start; where nothing fits, the differences to the nearest unfinished training are listed."""
    init_scale: PositiveFloat = 0.1
    """Input vectors start uniform in +- this / sqrt(dim); output vectors at zero."""
    max_loss_ratio: PositiveFloat = 100.0
    """Training stops when the loss exceeds the first one by this factor, or is not a number."""
    timeout_seconds: PositiveInt = 600
    """Ranks give up when one of them keeps the others waiting longer."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """Of matrix products on a GPU: highest is float32, high TF32, medium bfloat16 where there is a kernel for it.
    Tables, losses and sums stay float32. A CPU always computes in float32."""
    dense: DenseConfig = DenseConfig()
    """Optimizer of towers; none of the models here has any yet."""
    trackers: TrackersConfig = TrackersConfig()
    """TensorBoard and MLflow; none by default."""


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


class ItemKnnConfig(Section):
    """Neighbour baseline: sum of a candidate's graph scores over the history."""

    graph: ItemKnnGraphConfig = ItemKnnGraphConfig()
    """Its own graph."""


class BaselinesConfig(Section):
    """Models that always stand beside the trained one."""

    names: tuple[Literal["popularity", "item_knn"], ...] = ("popularity", "item_knn")
    """Which."""
    item_knn: ItemKnnConfig = ItemKnnConfig()
    """Of `item_knn`."""


class IndexConfig(Section):
    """The ANN index over item vectors."""

    kind: Literal["auto", "flat", "ivf_flat", "ivf_pq", "hnsw"] = "auto"
    """auto picks by size and prints the reason."""
    num_shards: PositiveInt = 1
    """Files; items are spread by a stable hash."""
    nlist: PositiveInt | None = None
    """Inverted lists; planned from the number of items by default."""
    nprobe: PositiveInt | None = None
    """Lists searched; by default the smallest that reaches `target_recall` in the build's own sweep."""
    m: PositiveInt | None = None
    """PQ sub-vectors; planned from the dimension by default."""
    nbits: Literal[4, 8] = 8
    """Bits a PQ sub-vector."""
    train_sample: PositiveInt = 200_000
    """Vectors (by hash) that train the quantizers."""
    refine: Literal["none", "fp16", "sq8"] = "fp16"
    """Second stage: k x refine_factor candidates are ranked again by these vectors. Not used by flat."""
    refine_factor: PositiveInt = 8
    """Candidates a result in the refine stage."""
    target_recall: Share = 0.95
    """Recall@10 against exact search that nprobe is chosen for."""
    min_recall: Share = 0.0
    """The build fails when the chosen setting stays below."""
    num_queries: PositiveInt = 1000
    """Item vectors (by hash) searched exactly and through the index to measure recall."""


class EvaluateConfig(Section):
    """How the model and the baselines are measured."""

    split: Literal["test", "valid"] = "test"
    """Whose items count as relevant."""
    history: Literal["train", "train+valid"] | None = None
    """Items a query is built from; train+valid when scoring test, else train. `context` is always added."""
    ks: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (10, 20, 50)
    """Cut-offs."""
    mask_seen: bool = True
    """Leave out a user's history items, from the list and from the relevant ones."""
    search: Literal["exact", "index"] = "exact"
    """exact: score all items; index: through the built index."""
    max_users: PositiveInt | None = None
    """Score only so many users, chosen by hash; all by default."""

    @model_validator(mode="after")
    def _check_history(self) -> "EvaluateConfig":
        if self.split == "valid" and self.history == "train+valid":
            raise ValueError("history train+valid holds the items that split valid scores; set history to train")
        return self


class SparkConfig(Section):
    """How the Spark side is started by `recspark run`; spark-submit's own settings win."""

    master: str | None = None
    """Such as local[4]; all local cores by default."""
    driver_memory: Annotated[str, Field(pattern=r"^[1-9][0-9]*[kmgtKMGT]$")] = "4g"
    """JVM heap of a local run."""
    conf: dict[str, str] = Field(default_factory=dict)
    """More Spark settings."""


class RunConfig(Section):
    """Everything a run is decided by."""

    run: RunSection = RunSection()
    paths: PathsConfig = PathsConfig()
    source: SourceConfig = SourceConfig()
    features: tuple[FeatureConfig, ...] = ()
    clean: CleanConfig = CleanConfig()
    sessions: SessionsConfig = SessionsConfig()
    vocabulary: VocabularyConfig = VocabularyConfig()
    split: SplitConfig = SplitConfig.model_construct()
    graph: GraphConfig | None = GraphConfig()
    walks: WalksConfig | None = WalksConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    baselines: BaselinesConfig = BaselinesConfig()
    index: IndexConfig | None = IndexConfig()
    evaluate: EvaluateConfig | None = EvaluateConfig()
    spark: SparkConfig = SparkConfig()

    @model_validator(mode="after")
    def _check_together(self, info: ValidationInfo) -> "RunConfig":
        if problems := find_contradictions(self, (info.context or {}).get(WRONG, frozenset())):
            raise ValueError("\n".join(problems))
        return self

    def section(self, name: str) -> Any:
        """A section as plain values, as they are hashed and recorded."""
        value = getattr(self, name)
        if isinstance(value, tuple):
            return [v.model_dump(mode="json") for v in value]
        return None if value is None else value.model_dump(mode="json")
