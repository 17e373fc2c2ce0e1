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

from recspark.config.baselines import CLOSED_FORM_KINDS, LIST_KINDS, BaselineName, BaselinesConfig
from recspark.config.checks import OVERRIDDEN, WRONG, find_contradictions
from recspark.config.graph import GraphConfig
from recspark.config.index import IndexConfig
from recspark.config.learning import (
    AUTO,
    AUTOS,
    AutoDecay,
    AutoSwitch,
    AutoTerm,
    CorpusWeights,
    ReadoutSearchConfig,
    WarmStartConfig,
    Window,
)
from recspark.config.release import RecommendConfig, ReleaseConfig
from recspark.config.section import IsoTime, Section
from recspark.config.source import FeatureConfig, SourceConfig
from recspark.config.towers import TOWER_KINDS, ExplicitConfig, TowerKind, TowersConfig, fill_in
from recspark.config.trainer import DenseConfig, TablesConfig, TrackersConfig


class RunSection(Section):
    """Facts of the whole run."""

    name: str = "recspark"
    """Shown in reports."""
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 1
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


class WalksConfig(Section):
    """Second-order random walks over the item graph (node2vec)."""

    variant: Literal["node2vec", "node2vec_plus"] = "node2vec"
    """node2vec_plus: a weak edge between previous and next node counts as part of one only (Liu et al. 2023)."""
    p: PositiveFloat = 1.0
    """Return parameter: below 1, walks step back more often (node2vec, section 3.2.2)."""
    q: PositiveFloat = 1.0
    """In-out parameter: below 1, walks move outward (node2vec, section 3.2.2). p = q = 1 is DeepWalk, the fastest."""
    gamma: NonNegativeFloat = 0.0
    """Of `node2vec_plus`: an edge is weak below its node's mean weight plus so many standard deviations."""
    walk_length: Annotated[int, Field(ge=2)] = 20
    """Nodes a walk holds at most."""
    restart_probability: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Chance that a step leads back to the walk's start instead (random walk with restart)."""
    num_walks: PositiveInt = 10
    """Walks from each node and epoch; their mean for `starts: degree`."""
    starts: Literal["fixed", "degree"] = "fixed"
    """fixed: num_walks from each node. degree: the same total, shared out by numbers of neighbours;
    some may get none."""
    num_epochs: PositiveInt = 1
    """Independent sets of walks. Raised, the epochs there already are taken over, not walked again."""
    weighted: bool = True
    """Steps in proportion to scores; false: uniform over neighbours."""
    symmetrize: bool = True
    """Join each edge with its reverse by the larger score: pruning leaves a directed graph."""
    max_degree: PositiveInt | None = None
    """After symmetrising, keep this many neighbours; all by default."""
    mode: Literal["auto", "replicated", "sharded"] = "auto"
    """replicated: every host maps the whole graph. sharded: each worker a range of its nodes, walkers move between
    shards; slower, for graphs no machine holds. auto: by graph_memory_mb. The walks are the same."""
    graph_memory_mb: PositiveInt | None = None
    """What building the graph may take of a machine's memory, and a shard of a worker's; by default half of what is
    free where the run starts, and 1024 for a shard."""
    num_shards: PositiveInt | None = None
    """Ranges of nodes in sharded mode; planned from cores and graph_memory_mb by default."""
    chunk_tokens: PositiveInt = 200_000_000
    """Nodes of walks that are made and kept at once: a killed build goes on from what it has kept."""


class ModelConfig(Section):
    """What is learned."""

    kind: Literal["skip_gram", "cbow", TowerKind, BaselineName, "auto"] = "skip_gram"
    """skip_gram: an item's input vector predicts each item of its window (Mikolov et al. 2013; Barkan & Koenigstein
    2016). cbow: the mean of a window's input vectors predicts the item in the middle. two_tower:
    a user's history, id and features against an item's id and features. mf: a vector a user, a vector an item.
    light_gcn: the same averaged over the user-item graph (He et al. 2020). Or a baseline alone, its knobs in
    section `baselines`: ppmi_svd, spectral (item vectors in closed form); popularity, item_knn, rp3beta, ease, als
    (lists: no train stage, no index, evaluate scores them). auto: chosen by the shape of the data once `sessions` is
    done, which a run says with the reason; name it before you go into production, as data that grow may change it."""
    objective: Literal["negative_sampling", "hierarchical_softmax"] = "negative_sampling"
    """negative_sampling: by an output vector an item, against drawn items. hierarchical_softmax: by the inner nodes of
    a Huffman tree over train events, whatever the corpus; then only `readout: input` has vectors of items."""
    embedding_dim: Annotated[int, Field(ge=2, le=4096)] = 64
    """Length of the vectors."""
    metric: Literal["cosine", "ip", "l2", "auto"] = "cosine"
    """How vectors are compared, by evaluation and index alike. l2: -|q - v|^2, of models without towers. auto: cosine
    or ip, chosen on the validation slice."""
    readout: Literal["input", "output", "sum", "input_output", "auto"] = "input"
    """Vectors exported: input or output table, their sum, or queries by input and candidates by output vectors. A user
    is the mean of query vectors, of unit length except under l2. auto: as for `metric`."""
    history_decay: AutoDecay = 1.0
    """In a user's mean, the item at place i from the last of his history weighs history_decay^i: 1 weighs all alike, .5
    halves with every item, near 0 only the last one counts. auto: as for `metric`."""
    history_items: PositiveInt | None = None
    """Only so many last items of a history count; all by default."""
    centred: AutoSwitch = False
    """Subtract the mean vector before export. auto: as for `metric`."""
    popularity_term: AutoTerm = 0.0
    """bias = this x centred log(train events). auto: as for `metric`."""
    readout_search: ReadoutSearchConfig = ReadoutSearchConfig()
    """How the `auto` ones are chosen."""
    towers: TowersConfig = TowersConfig()
    """Of two_tower, mf and light_gcn."""

    @property
    def autos(self) -> tuple[str, ...]:
        """The fields left to the validation slice."""
        return tuple(n for n in AUTOS if getattr(self, n) == AUTO)

    @property
    def has_vectors(self) -> bool:
        """Whether the model has item vectors: a train stage makes them, an index and queries use them."""
        return self.kind not in LIST_KINDS

    @property
    def is_closed_form(self) -> bool:
        """Whether its vectors come out of linear algebra: no corpus, no steps, no ranks."""
        return self.kind in CLOSED_FORM_KINDS

    @property
    def has_towers(self) -> bool:
        """Whether it compares a vector of a user, made of his history, with those of items: section `towers`."""
        return self.kind in TOWER_KINDS

    @property
    def explicit_negatives(self) -> ExplicitConfig | None:
        """The events that are negatives, of a kind with towers."""
        return self.towers.negatives.explicit if self.has_towers else None

    @property
    def has_ranking_head(self) -> bool:
        """Whether what its towers retrieve is ranked once more: section `towers.ranking`."""
        return self.kind == "two_tower" and self.towers.ranking.kind != "none"

    @property
    def has_corpus(self) -> bool:
        """Whether it learns from sequences, by section `training`."""
        return self.has_vectors and not self.is_closed_form


class TrainingConfig(Section):
    """How it is learned."""

    corpus: CorpusWeights = Field(default={"walks": 1.0})
    """Sequences: `walks` over the item graph, the `sessions`, each user's whole train part as one (`histories`), or
    several, each with its share of every batch: {walks: 1.0, sessions: 0.5}."""
    backend: Literal["auto", "cpu", "torch"] = "auto"
    """cpu: the numba kernel, one process, as its checkpoints. torch: any number of processes by torchrun, gloo or NCCL.
    auto: says what it picked and why."""
    epochs: PositiveInt = 5
    """Passes over the corpus; as many sequences as all hold together where there are several, drawn by their shares."""
    learning_rate: PositiveFloat = 0.5
    """Of row-wise Adagrad, at its highest."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the rate goes on: linear and cosine fall to a hundredth, which the step after the last one would have."""
    warmup_steps: NonNegativeInt = 0
    """Over the first so many steps the rate is raised linearly to what `schedule` says."""
    min_count: PositiveInt = 1
    """Items with fewer train events (edges, of an edge list) are left out of all sequences, negatives and vectors. At
    1, items without any are served where a warm start has vectors for them."""
    warm_start: WarmStartConfig | None = None
    """Start from an earlier model instead of random vectors."""
    window: Window = 5
    """Context items on each side, 255 at most; drawn from 1..window for each centre (`dynamic_window`). session: all of
    a sequence of l items, each pair with weight 1 / (l - 1); needs no order. Sequences of more than 256 items are cut
    into equal parts, and pairs across a cut are lost; without `position_decay` session cuts them elsewhere in each
    epoch."""
    dynamic_window: bool = True
    """Near items count more: the window is drawn for each centre. Without effect on `window: session`."""
    position_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """A pair d apart weighs position_decay^(d - 1)."""
    conversion_context: str | None = None
    """Event type (such as purchase) whose items count as bought: each is a positive for all windows of its session,
    with weight 1 (Grbovic & Cheng 2018; in cbow it is predicted from its whole session). Needs sessions in `corpus`."""
    num_negatives: PositiveInt = 5
    """Negatives each positive pair weighs against."""
    shared_negatives: Annotated[int, Field(ge=1, le=65_536)] = 64
    """Negatives shared by a block of short sentences (CPU kernel) or, 8 times as many, by a batch (torch); their weight
    is that of num_negatives."""
    noise_exponent: Annotated[float, Field(ge=-1, le=1)] = 0.5
    """Negatives are drawn by count^this, count being an item's train events, whatever the corpus (Caselles-Dupre et al.
    2018: recommenders want less than .75)."""
    subsample: NonNegativeFloat = 0.0
    """Frequent items are dropped with this threshold (Mikolov et al. 2013, eq. 5); 0: never. How frequent one is, is
    its share of train events, whatever the corpus: the counts of `noise_exponent` and of the Huffman tree. On walks,
    where graph and degree decide, its share of tokens can be several times more or less."""
    negative_group: str | None = None
    """Item feature (category, market) of which each item gets further negatives of its own value (Grbovic & Cheng
    2018)."""
    num_group_negatives: PositiveInt = 1
    """Of `negative_group`: negatives from the own group that each positive pair weighs against, besides the others."""
    mask_positives: bool = True
    """A drawn negative that is a positive of the same window does not count: matters for small catalogues."""
    batch_sequences: PositiveInt = 1024
    """Sequences of a global batch; divided among lanes, so among ranks."""
    num_lanes: PositiveInt = 64
    """Streams of sequences; every number of ranks that divides it sees the same batches."""
    num_processes: PositiveInt = 1
    """torchrun processes that `recspark run` starts (one a GPU)."""
    max_restarts: NonNegativeInt = 0
    """Of several processes: so many times `recspark run` starts them again by itself, from the last checkpoint, where
    one has ended with an error or was killed."""
    num_threads: PositiveInt | None = None
    """CPU threads; all cores by default. The CPU kernel repeats exactly only with 1."""
    checkpoint_steps: PositiveInt = 500
    """Steps (global batches) between checkpoints; the CPU kernel counts the same batches."""
    keep_checkpoints: PositiveInt = 2
    """Newest checkpoints kept."""
    resume: Literal["auto", "required"] = "auto"
    """auto: from the latest checkpoint of this config and these inputs, else from the start. required: never from the
    start; where nothing fits, the differences to the nearest unfinished training are listed."""
    init_scale: Annotated[float, Field(gt=0, le=100)] = 0.1
    """Input vectors start uniform in +- this / sqrt(dim); output vectors at zero."""
    max_loss_ratio: PositiveFloat = 1000.0
    """Training stops when the loss exceeds an untrained model's by this factor, or is not a number. Row-wise
    Adagrad's first steps raise it for a while by about .2 x learning_rate^2 x embedding_dim (batches in torch; less on
    the CPU)."""
    timeout_seconds: PositiveInt = 600
    """Ranks give up when one of them keeps the others waiting longer."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """Of matrix products on a GPU: highest is float32, high TF32, medium bfloat16 where there is a kernel for it.
    Tables, losses and sums stay float32. A CPU always computes in float32."""
    dense: DenseConfig = DenseConfig()
    """Optimizer of towers' parameters outside the tables."""
    tables: TablesConfig = TablesConfig()
    """Optimizer of towers' tables."""
    trackers: TrackersConfig = TrackersConfig()
    """TensorBoard and MLflow; none by default."""


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
    split: SplitConfig = SplitConfig()
    graph: GraphConfig | None = GraphConfig()
    walks: WalksConfig | None = WalksConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    baselines: BaselinesConfig = BaselinesConfig()
    index: IndexConfig | None = IndexConfig()
    evaluate: EvaluateConfig | None = EvaluateConfig()
    release: ReleaseConfig | None = None
    recommend: RecommendConfig = RecommendConfig()
    spark: SparkConfig = SparkConfig()

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        return fill_in(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _check_together(self, info: ValidationInfo) -> "RunConfig":
        wrong, overridden = ((info.context or {}).get(name, frozenset()) for name in (WRONG, OVERRIDDEN))
        if problems := find_contradictions(self, wrong, overridden):
            raise ValueError("\n".join(problems))
        return self

    @property
    def scored_kinds(self) -> set[str]:
        """The model's kind and the baselines beside it: all that is built in this run."""
        return {self.model.kind, *self.baselines.names}

    def section(self, name: str) -> Any:
        """A section as plain values, as they are hashed and recorded."""
        value = getattr(self, name)
        if isinstance(value, tuple):
            return [v.model_dump(mode="json") for v in value]
        return None if value is None else value.model_dump(mode="json")
