"""What an index takes, in bytes: an item's code, the peak of a build, an opened index. Pure arithmetic.

5,000,000 vectors of 128, IVF4096,PQ32x8  ->  40 bytes an item, 0.4 GiB to search
"""

HNSW_LINKS = 32
_PRECOMPUTED_MAX_BYTES = 2**31  # faiss skips the distance tables of IVFPQ beyond this
_OPQ_SAMPLE = 65_536  # of faiss: vectors that train a rotation
_OPQ_COPIES = 4  # centred, rotated, decoded and their codes' tables


def code_bytes(kind: str, padded: int, m: int, nbits: int) -> int:
    """Bytes an item in a shard: its code or vector, its links in a graph, its id."""
    links = 2 * HNSW_LINKS * 4 if kind == "hnsw" else 0
    vector = -(-m * nbits // 8) if kind == "ivf_pq" else padded * 4
    return vector + links + 8  # 8: the id


def refine_bytes(refine: str, vector_dim: int) -> int:
    """Bytes an item in the second stage's file, which an opened index maps."""
    return {"none": 0, "fp16": 2, "sq8": 1}[refine] * vector_dim


def search_bytes(num_vectors: int, code: int, num_shards: int, nlist: int, padded: int, m: int, nbits: int) -> int:
    """Bytes an opened index holds: what an item takes (``code``, with the second stage's), and each copy of centroids
    and distance tables.
    """
    tables = nlist * m * 2**nbits * 4 if m else 0
    tables = tables if tables <= _PRECOMPUTED_MAX_BYTES else 0
    copies = num_shards if nbits == 4 else min(num_shards, 2)  # 8-bit shards are joined one by one as they are opened
    return num_vectors * code + copies * (nlist * padded * 4 + tables)


def build_bytes(num_vectors: int, vector_dim: int, padded: int, train_size: int, held: int, opq: bool) -> int:
    """Peak bytes of a build in one process: item and query vectors read whole, from a table that is sorted, or, later,
    beside them the sample twice and an opened index.
    """
    vectors = 2 * num_vectors * vector_dim * 4
    rotation = _OPQ_COPIES * min(train_size, _OPQ_SAMPLE) * padded * 4 if opq else 0
    return max(2 * vectors, vectors + 2 * train_size * padded * 4 + rotation + held)
