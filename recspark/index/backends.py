"""The faiss calls that build: an empty index, its training, adding; on the CPU, or on a GPU where faiss has one.

A GPU only does the work faster: what comes back is always the CPU index that faiss-cpu reads.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from recspark.index.engine import FaissIndex, faiss
from recspark.index.metric import Floats
from recspark.index.plan import HNSW_LINKS, IVF_KINDS, IndexPlan

ADD_BLOCK = 65_536
"""Vectors encoded and added at a time, so that no second copy of a shard is made."""
_HNSW_EF_CONSTRUCTION = 80
_GPU_PQ_M = {1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96}
"""Sub-vectors the GPU's IVFPQ knows (faiss wiki, "Faiss on the GPU"), with 8 bits only."""


def empty_index(plan: IndexPlan, seed: int) -> FaissIndex:
    """An untrained L2 index of the plan's kind that takes ids of ours."""
    if plan.kind == "flat":
        return faiss.IndexIDMap(faiss.IndexFlatL2(plan.padded_dim))
    if plan.kind == "hnsw":
        graph = faiss.IndexHNSWFlat(plan.padded_dim, HNSW_LINKS)
        graph.hnsw.efConstruction = _HNSW_EF_CONSTRUCTION
        return faiss.IndexIDMap(graph)
    index = _empty_ivf(plan, faiss.IndexFlatL2(plan.padded_dim))
    index.cp.seed = seed % 2**31
    index.cp.min_points_per_centroid = 1  # the plan has said so where there are few
    return index


def _empty_ivf(plan: IndexPlan, quantizer: FaissIndex) -> FaissIndex:
    if plan.kind == "ivf_flat":
        return faiss.IndexIVFFlat(quantizer, plan.padded_dim, plan.nlist)
    if plan.nbits == 4:
        index = faiss.IndexIVFPQFastScan(quantizer, plan.padded_dim, plan.nlist, plan.m, plan.nbits)
    else:
        index = faiss.IndexIVFPQ(quantizer, plan.padded_dim, plan.nlist, plan.m, plan.nbits)
        index.do_polysemous_training = False  # four times the training time for a filter that nothing here uses
    index.pq.cp.min_points_per_centroid = 1
    return index


def train_index(index: FaissIndex, plan: IndexPlan, sample: Floats) -> None:
    """Trains quantizers on float32[S, padded_dim], k-means on all GPUs where there are some; in place."""
    if plan.kind not in IVF_KINDS:
        return
    if faiss.get_num_gpus() > 0:
        index.clustering_index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatL2(plan.padded_dim))
    index.train(np.ascontiguousarray(sample))
    if faiss.get_num_gpus() > 0:
        index.clustering_index = None


def add_blocks(index: FaissIndex, plan: IndexPlan, blocks: Iterator[tuple[NDArray[np.int64], Floats]]) -> FaissIndex:
    """A trained index with blocks of (ids [B], float32[B, padded_dim]) added; may be another object than given."""
    on_gpu = fits_gpu(plan) and faiss.get_num_gpus() > 0
    target = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index) if on_gpu else index
    # Several threads link an HNSW graph in the order they happen to run: one makes the same graph every time.
    with omp_threads(1 if plan.kind == "hnsw" else faiss.omp_get_max_threads()):
        for ids, vectors in blocks:
            target.add_with_ids(vectors, ids)
    return faiss.index_gpu_to_cpu(target) if on_gpu else target


def fits_gpu(plan: IndexPlan) -> bool:
    """Whether the GPU can hold lists of this plan; training's k-means always can run there."""
    return plan.kind == "ivf_flat" or (plan.kind == "ivf_pq" and plan.nbits == 8 and plan.m in _GPU_PQ_M)


def describe_backend(plan: IndexPlan) -> str:
    """``faiss-cpu``, or what the GPUs do."""
    gpus = faiss.get_num_gpus()
    if gpus == 0 or plan.kind not in IVF_KINDS:
        return f"faiss {faiss.__version__} on the CPU, {faiss.omp_get_max_threads()} threads"
    return f"faiss {faiss.__version__}, k-means on {gpus} GPUs, adding on the {'GPU' if fits_gpu(plan) else 'CPU'}"


@contextmanager
def omp_threads(num_threads: int) -> Iterator[None]:
    """Runs faiss with so many threads inside the block."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(num_threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
