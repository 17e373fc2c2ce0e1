"""Which index to build, from sizes alone: kind, nlist, m, training sample, memory, and why. Pure arithmetic.

2,000 vectors of 64  -> flat: "2,000 vectors: below 10,000 exact search is quick"
5,000,000 of 128     -> ivf_pq, nlist 4096, m 32: "full vectors take 2.4 GiB, above 2.0 GiB they are coded"
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from recspark.errors import IndexBuildError
from recspark.index.estimate import HNSW_LINKS, build_bytes, code_bytes, refine_bytes, search_bytes
from recspark.index.metric import augmented_dim, padded_dim
from recspark.memory import gib

if TYPE_CHECKING:  # a reader of indexes needs no pydantic
    from recspark.config.index import IndexConfig

FLAT_MAX_VECTORS = 10_000
"""Up to here exact search takes well under a millisecond, so nothing is worth approximating."""
HNSW_MAX_VECTORS = 50_000
"""Up to here a graph is built in seconds by one thread (more threads would make it differ from run to run)."""
FULL_MAX_BYTES = 2 << 30
"""Up to here full vectors are kept. A constant, not what a machine has free: one index_id stands for one plan."""
POINTS_PER_LIST = 39
"""Training vectors a list that k-means needs to be any good (faiss's own warning line)."""
IVF_KINDS = ("ivf_flat", "ivf_pq")


@dataclass(frozen=True)
class IndexPlan:
    """What will be built. ``dim`` is the augmented dimension, ``padded_dim`` the faiss index's.

    ``nlist`` is 0 without inverted lists, ``m`` and ``nbits`` without product quantizer; ``code_bytes`` is what an item
    takes in a shard, ``build_bytes`` the peak of the build, ``search_bytes`` what an opened index holds, the second
    stage's codes included, and what its files take.
    """

    kind: str
    num_vectors: int
    num_shards: int
    dim: int
    padded_dim: int
    nlist: int
    m: int
    nbits: int
    opq: bool
    train_size: int
    refine: str
    refine_factor: int
    code_bytes: int
    build_bytes: int
    search_bytes: int
    reasons: tuple[str, ...]

    @property
    def name(self) -> str:
        """Short name in faiss's manner, such as ``IVF1024,PQ16x8``."""
        if self.kind == "ivf_pq":
            rotation = f"OPQ{self.m}," if self.opq else ""
            return f"{rotation}IVF{self.nlist},PQ{self.m}x{self.nbits}{'fs' if self.nbits == 4 else ''}"
        return {"flat": "Flat", "ivf_flat": f"IVF{self.nlist},Flat", "hnsw": f"HNSW{HNSW_LINKS},Flat"}[self.kind]

    @property
    def effort_name(self) -> str | None:
        """The knob that trades speed for recall at search time; None for flat."""
        return {"flat": None, "hnsw": "ef_search"}.get(self.kind, "nprobe")

    def to_facts(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return asdict(self) | {"name": self.name, "reasons": list(self.reasons)}


def plan_from_facts(facts: dict[str, Any]) -> IndexPlan:
    """The plan that ``to_facts`` recorded."""
    values = {key: value for key, value in facts.items() if key != "name"}
    return IndexPlan(**values | {"reasons": tuple(values["reasons"])})


def plan_index(config: "IndexConfig", num_vectors: int, vector_dim: int, metric: str, has_bias: bool) -> IndexPlan:
    """The plan for ``num_vectors`` vectors of ``vector_dim`` floats.

    Raises: IndexBuildError where a knob of section `index` cannot be met by that many vectors or dimensions.
    """
    _check_shards(config.num_shards, num_vectors)
    dim = augmented_dim(metric, vector_dim, has_bias)
    kind, why = choose_kind(config, num_vectors, dim)
    reasons = [why]
    train_size = min(config.train_sample, num_vectors) if kind in IVF_KINDS else 0
    nlist = choose_nlist(config.nlist, num_vectors, train_size, reasons) if kind in IVF_KINDS else 0
    m, nbits = _choose_codes(config, kind, dim, train_size, reasons)
    if dim != vector_dim:
        reasons.append(f"{dim - vector_dim} columns added to {vector_dim}: L2 has to rank by {metric} and bias")
    padded = padded_dim(dim, max(m, 1))
    if padded != dim:
        reasons.append(_say_padding(dim, padded, m))
    refine = _choose_refine(config.refine, kind, reasons)
    if config.nprobe and kind not in IVF_KINDS:
        reasons.append(f"index.nprobe {config.nprobe} is not used: {kind} has no inverted lists")
    opq = config.opq and kind == "ivf_pq"
    if config.opq != opq:
        reasons.append(f"index.opq is not used: {kind} has no codes to rotate for")
    width = code_bytes(kind, padded, m, nbits)
    width_in_all = width + refine_bytes(refine, vector_dim)
    held = search_bytes(num_vectors, width_in_all, config.num_shards, nlist, padded, m, nbits)
    return IndexPlan(
        kind=kind,
        num_vectors=num_vectors,
        num_shards=config.num_shards,
        dim=dim,
        padded_dim=padded,
        nlist=nlist,
        m=m,
        nbits=nbits,
        opq=opq,
        train_size=train_size,
        refine=refine,
        refine_factor=config.refine_factor if refine != "none" else 1,
        code_bytes=width,
        build_bytes=build_bytes(num_vectors, vector_dim, padded, train_size, held, opq),
        search_bytes=held,
        reasons=tuple(reasons),
    )


def choose_kind(config: "IndexConfig", num_vectors: int, dim: int) -> tuple[str, str]:
    """(kind, reason): the config's, or by size."""
    if config.kind != "auto":
        return config.kind, f"{config.kind}: asked for by index.kind"
    if num_vectors < FLAT_MAX_VECTORS:
        return "flat", f"flat: {num_vectors:,} vectors, below {FLAT_MAX_VECTORS:,} exact search is quick"
    full_bytes = num_vectors * dim * 4
    if full_bytes > FULL_MAX_BYTES:
        return "ivf_pq", f"ivf_pq: full vectors take {gib(full_bytes)}, above {gib(FULL_MAX_BYTES)} they are coded"
    if num_vectors < HNSW_MAX_VECTORS and config.num_shards == 1:
        why = f"{num_vectors:,} vectors in one shard, below {HNSW_MAX_VECTORS:,} a graph is built in seconds"
        return "hnsw", f"hnsw: {why}"
    return "ivf_flat", f"ivf_flat: full vectors take {gib(full_bytes)}, up to {gib(FULL_MAX_BYTES)} they are kept"


def choose_nlist(asked: int | None, num_vectors: int, train_size: int, reasons: list[str]) -> int:
    """Inverted lists: about 4 sqrt(n), a power of two, with enough training vectors each.

    Raises: IndexBuildError when more are asked for than there are training vectors.
    """
    well = max(train_size // POINTS_PER_LIST, 1)
    if asked is None:
        nlist = 1 << (min(int(4 * num_vectors**0.5), well).bit_length() - 1)
        reasons.append(f"nlist {nlist}: a power of two up to 4 sqrt(n), {POINTS_PER_LIST} training vectors a list")
        return nlist
    if asked > train_size:
        raise IndexBuildError(
            f"index.nlist {asked} needs as many training vectors, there are {train_size} ({num_vectors} vectors, "
            f"index.train_sample caps the sample); set index.nlist to at most {train_size} ({well} lists train well)"
        )
    few = f", fewer than {POINTS_PER_LIST} training vectors a list (up to {well} train well)" if asked > well else ""
    reasons.append(f"nlist {asked}: asked for by index.nlist{few}")
    return asked


def choose_m(config: "IndexConfig", dim: int, reasons: list[str]) -> int:
    """PQ sub-vectors: one a 4 dimensions, one a 2 where codes are short or nothing ranks again after them.

    Raises: IndexBuildError when more are asked for than there are dimensions.
    """
    if config.m is None:
        width = 2 if config.nbits == 4 or config.refine == "none" else 4
        m = max(dim // width, 1)
        reasons.append(f"m {m}: about {width} dimensions a sub-vector of {config.nbits} bits")
        return m
    if config.m > dim:
        divisors = ", ".join(str(n) for n in range(1, dim + 1) if dim % n == 0)
        raise IndexBuildError(
            f"index.m {config.m} is more than the {dim} dimensions to be coded; "
            f"set it to at most {dim} (without padding: {divisors})"
        )
    reasons.append(f"m {config.m}: asked for by index.m")
    return config.m


def check_memory(plan: IndexPlan, free_bytes: int, share: float = 1.0) -> None:
    """Checks that the build fits, or the part of a process that adds a ``share`` of the shards.

    Raises: IndexBuildError with the estimate, what is free and what would lower it.
    """
    needed = int(plan.build_bytes * share)
    if needed > free_bytes:
        raise IndexBuildError(
            f"{plan.name} over {plan.num_vectors:,} vectors needs about {gib(needed)} to build, "
            f"{gib(free_bytes)} is free; set index.kind to ivf_pq, lower index.m or index.train_sample, "
            "or build on a larger machine"
        )


def check_disk(plan: IndexPlan, free_bytes: int | None, is_single: bool = False, share: float = 1.0) -> None:
    """Checks that the finished index fits where it goes, or a delta of a ``share`` of its items, and beside it one file
    of all where it ``is_single`` too; None: a store, never full.

    Raises: IndexBuildError with the estimate, what is free and what would lower it.
    """
    needed = int(plan.search_bytes * (share + is_single))
    if free_bytes is not None and needed > free_bytes:
        ways = ["lower index.m", *(["set index.refine to none"] if plan.refine != "none" else [])]
        ways += ["leave index.single_file out"] if is_single else []
        raise IndexBuildError(
            f"{plan.name} over {plan.num_vectors:,} vectors takes about {gib(needed)} of disk, {gib(free_bytes)} is "
            f"free where paths.lake is; free some, {', '.join(ways)}, or set paths.lake to another disk"
        )


def _check_shards(num_shards: int, num_vectors: int) -> None:
    if num_vectors == 0:
        raise IndexBuildError("item_embeddings holds no vectors for this model; train it first")
    if num_shards > num_vectors:
        raise IndexBuildError(
            f"index.num_shards {num_shards} is more than the {num_vectors} items; set it to at most {num_vectors}"
        )


def _check_centroids(nbits: int, train_size: int) -> None:
    if train_size < 2**nbits:
        other = "index.nbits to 4 (16 centroids) or " if nbits == 8 and train_size >= 16 else ""
        raise IndexBuildError(
            f"index.kind ivf_pq with nbits {nbits} trains {2**nbits} centroids a sub-vector, there are only "
            f"{train_size} training vectors; set {other}index.kind to flat or ivf_flat"
        )


def _choose_codes(config: "IndexConfig", kind: str, dim: int, train_size: int, reasons: list[str]) -> tuple[int, int]:
    """(m, nbits) of the product quantizer; zeros without one."""
    if kind != "ivf_pq":
        return 0, 0
    _check_centroids(config.nbits, train_size)
    if config.single_file and config.nbits == 4 and (config.num_shards > 1 or config.incremental):
        raise IndexBuildError("index.single_file: faiss cannot join 4-bit codes of several shards; leave it out")
    return choose_m(config, dim, reasons), config.nbits


def _say_padding(dim: int, padded: int, m: int) -> str:
    below, above = (max(n for n in range(1, m) if dim % n == 0), min(n for n in range(m, dim + 1) if dim % n == 0))
    without = f"m {below} or {above} would need no padding"
    return f"padded from {dim} to {padded} dimensions, a multiple of m = {m} ({without})"


def _choose_refine(asked: str, kind: str, reasons: list[str]) -> str:
    if kind == "ivf_pq" or asked == "none":
        return asked
    reasons.append(f"refine {asked} is not needed: {kind} holds the full vectors")
    return "none"
