"""Section `index`: the ANN index over item vectors, and what of it no catalogue could meet."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt

from recspark.config.section import Section
from recspark.config.source import Share

if TYPE_CHECKING:
    from recspark.config.schema import RunConfig

NOT_IN_INDEX_KEY = frozenset({"timeout_seconds"})
"""Knobs of `index` that decide how it is built, never what comes out."""
GPU_SUB_VECTORS = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)
"""m that faiss' IVFPQ knows on a GPU, with 8 bits only (faiss wiki, "Faiss on the GPU")."""
_OF_LISTS = ("nlist", "nprobe")
_OF_CODES = ("m", "nbits", "opq")


class IncrementalIndexConfig(Section):
    """An index that goes on from an earlier one of the same knobs: its shards are kept, new and changed items are a
    delta shard, those gone are tombstones. Its quantizers are the earlier one's, so it is measured and, where it has
    drifted too far, built anew."""

    max_delta_share: Share = 0.2
    """All is built anew where new, changed and removed items are more than this share."""
    max_recall_drop: Share = 0.01
    """All is built anew where recall@10, at the same setting, falls further below the earlier index's."""


class IndexConfig(Section):
    """The ANN index over item vectors."""

    kind: Literal["auto", "flat", "ivf_flat", "ivf_pq", "hnsw"] = "auto"
    """auto picks by size, from number and length of the vectors, and prints the reason."""
    num_shards: PositiveInt = 1
    """Files; items are spread by a stable hash."""
    nlist: PositiveInt | None = None
    """Inverted lists; planned from the number of items by default."""
    nprobe: PositiveInt | None = None
    """Lists searched; by default the smallest that reaches `target_recall` in the build's own sweep."""
    m: PositiveInt | None = None
    """PQ sub-vectors; planned from the dimension by default. Vectors are padded to a multiple of it."""
    nbits: Literal[4, 8] = 8
    """Bits a PQ sub-vector; 4 is scanned faster (fast scan) and coarser."""
    opq: bool = False
    """Of `ivf_pq`: rotate vectors so that sub-vectors carry alike (Ge et al. 2013); longer training, better codes."""
    train_sample: PositiveInt = 200_000
    """Vectors (by hash) that train the quantizers."""
    refine: Literal["none", "fp16", "sq8"] = "fp16"
    """Second stage: k x refine_factor candidates are ranked again by these vectors. Not used by flat."""
    refine_factor: PositiveInt = 8
    """Candidates a result in the refine stage."""
    target_recall: Share = 0.95
    """Recall@10 against exact search, of items' and of users' vectors, that nprobe is chosen for: the smallest by which
    both reach it and `min_recall`."""
    min_recall: Share = 0.0
    """The build fails when the chosen setting stays below."""
    num_queries: PositiveInt = 1000
    """Item vectors (by hash), and as many of users where the model has some, searched exactly and through the index to
    measure recall."""
    fill: tuple[Literal["neighbours", "content"], ...] = ()
    """Vectors for active items that the model has none for, the first way that finds some; none by default. neighbours:
    the mean of their neighbours' in the item graph, weighted by score. content: the mean over their categorical and
    multi features' values of the mean over the items that share them. Their bias is the lowest of all."""
    single_file: bool = False
    """Also write all shards as one faiss file, index.faiss, for readers outside; not from hnsw or 4-bit shards."""
    incremental: IncrementalIndexConfig | None = None
    """Go on from the newest index of the same knobs in this lake; none by default."""
    backend: Literal["auto", "cpu", "gpu", "torch"] = "auto"
    """What trains and adds; the files are those of faiss-cpu in any case. auto: faiss, on its GPUs where it sees some.
    cpu: faiss without them. gpu: faiss on GPUs, or nothing. torch: k-means, OPQ and PQ in torch, on CUDA if it can."""
    timeout_seconds: PositiveInt = 3600
    """A process of a build on several ones gives up after so long without a sign of the others."""


def find_index_problems(config: "RunConfig") -> Iterator[tuple[str, ...]]:
    """(line, keys it hangs on) of each knob that no catalogue could meet; none without the section."""
    index = config.index
    if index is None or not config.model.has_vectors:
        return
    yield from _find_in_codes(config, index)
    if index.nlist and index.nlist > index.train_sample:
        line = f"index.nlist: {index.nlist} lists need as many training vectors, index.train_sample is "
        yield f"{line}{index.train_sample}; lower it or raise that", "index.nlist", "index.train_sample"
    if index.nlist and index.nprobe and index.nprobe > index.nlist:
        line = f"index.nprobe: {index.nprobe} is more than index.nlist {index.nlist}; lower it"
        yield line, "index.nprobe", "index.nlist"
    yield from _find_in_fill(config, index)
    yield from _find_in_backend(index)
    yield from _find_in_forms(index)


def find_idle_index_knobs(index: IndexConfig | None) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """(knobs, key, why): knobs that have no effect under the kind that ``key`` names."""
    if index is None or index.kind in ("auto", "ivf_pq"):
        return
    names = _OF_CODES if index.kind == "ivf_flat" else _OF_LISTS + _OF_CODES
    what = "full vectors, no codes" if index.kind == "ivf_flat" else "no inverted lists and no codes"
    yield names, "index.kind", f"index.kind {index.kind} has {what}"


def _find_in_codes(config: "RunConfig", index: IndexConfig) -> Iterator[tuple[str, ...]]:
    if index.kind != "ivf_pq":
        return
    widest = config.model.embedding_dim + 2  # with the columns for norms and bias
    if index.m and index.m > widest:
        dim = config.model.embedding_dim
        divisors = ", ".join(str(n) for n in range(1, dim + 1) if dim % n == 0)
        line = f"index.m: {index.m} sub-vectors are more than model.embedding_dim {dim}; without padding go {divisors}"
        yield line, "index.m", "index.kind", "model.embedding_dim"
    if index.train_sample < 2**index.nbits:
        line = f"index.train_sample: {index.train_sample} vectors cannot train the {2**index.nbits} centroids of "
        yield f"{line}index.nbits {index.nbits}; raise it", "index.train_sample", "index.nbits", "index.kind"


def _find_in_forms(index: IndexConfig) -> Iterator[tuple[str, ...]]:
    """What faiss cannot take apart or put together."""
    is_graph, is_packed = index.kind == "hnsw", index.kind == "ivf_pq" and index.nbits == 4
    if index.single_file and (is_graph or is_packed) and (index.num_shards > 1 or index.incremental):
        what = "graphs" if is_graph else "4-bit codes"
        keys = ("index.single_file", "index.kind", "index.nbits", "index.num_shards", "index.incremental")
        yield f"index.single_file: faiss cannot join {what} of several shards; leave it out", *keys
    if index.incremental and is_graph:
        line = "index.incremental: an hnsw graph cannot forget items; set index.kind to flat, ivf_flat or ivf_pq"
        yield line, "index.incremental", "index.kind"


def _find_in_fill(config: "RunConfig", index: IndexConfig) -> Iterator[tuple[str, ...]]:
    if "neighbours" in index.fill and not (config.graph and config.model.has_corpus) and config.source.kind != "edges":
        yield "index.fill: neighbours needs the graph of a graph section", "index.fill", "graph", "model.kind"
    kinds = {feature.kind for feature in config.features if feature.of == "item"}
    if "content" in index.fill and not kinds & {"categorical", "multi"}:
        yield "index.fill: content needs an item feature of kind categorical or multi", "index.fill", "features"


def _find_in_backend(index: IndexConfig) -> Iterator[tuple[str, ...]]:
    keys = ("index.backend", "index.kind")
    if index.backend in ("gpu", "torch") and index.kind in ("flat", "hnsw"):
        yield f"index.backend: {index.backend} trains inverted lists, {index.kind} has none; leave it out", *keys
    if index.backend == "gpu" and index.kind == "ivf_pq" and index.nbits != 8:
        line = "index.nbits: faiss' IVFPQ has 8 bits only on a GPU; set index.nbits to 8, or index.backend to torch"
        yield line, "index.nbits", *keys
    if index.backend == "gpu" and index.kind == "ivf_pq" and index.m and index.m not in GPU_SUB_VECTORS:
        known = ", ".join(map(str, GPU_SUB_VECTORS))
        yield f"index.m: faiss' IVFPQ on a GPU takes {known}; got {index.m}", "index.m", *keys
