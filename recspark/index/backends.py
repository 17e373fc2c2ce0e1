"""The faiss calls that build: an empty index, its training, adding; on the CPU, or on GPUs where faiss has some.

A GPU only does the work faster: what comes back is always the CPU index that faiss-cpu reads. No GPU has seen this
file's GPU parts yet: they are written after faiss' documentation, tests run them where `get_num_gpus()` is above 0.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from recspark.config.index import GPU_SUB_VECTORS
from recspark.errors import IndexBuildError
from recspark.index.engine import FaissIndex, faiss, inner_index
from recspark.index.estimate import HNSW_LINKS
from recspark.index.metric import Floats
from recspark.index.plan import IVF_KINDS, IndexPlan

Block = tuple[NDArray[np.int64], Floats]
"""(ids [B], points float32[B, padded_dim])."""
TORCH, GPU, CPU = "torch", "gpu", "cpu"

ADD_BLOCK = 65_536
"""Vectors encoded and added at a time, so that no second copy of a shard is made."""
_HNSW_EF_CONSTRUCTION = 80
_GPU_SUB_DIMS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 28, 32)
_OPQ_ITERATIONS = 20
"""Faiss' own 50 gain nothing that recall would show, and a rotation is most of the training."""


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
    return faiss.IndexPreTransform(_empty_rotation(plan), index) if plan.opq else index


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


def _empty_rotation(plan: IndexPlan) -> FaissIndex:
    rotation = faiss.OPQMatrix(plan.padded_dim, plan.m)
    codes = faiss.ProductQuantizer(plan.padded_dim, plan.m, plan.nbits)
    codes.cp.min_points_per_centroid = 1
    rotation.pq = codes
    rotation.referenced_objects = [codes]  # faiss holds a bare pointer
    rotation.niter = _OPQ_ITERATIONS
    return rotation


def check_backend(backend: str, plan: IndexPlan) -> None:
    """Checks that the machine and the plan suit the backend that was asked for.

    Raises: IndexBuildError.
    """
    if backend == TORCH and find_spec("torch") is None:
        raise IndexBuildError("index.backend torch: torch is not installed; install it, or set index.backend to auto")
    if backend not in (GPU, TORCH) or plan.kind not in IVF_KINDS:
        return
    if backend == GPU and faiss.get_num_gpus() == 0:
        raise IndexBuildError(
            f"index.backend gpu: faiss {faiss.__version__} sees no GPU here; install faiss-gpu on a machine with one, "
            "or set index.backend to auto"
        )
    if backend == GPU and (why := find_gpu_misfit(plan)):
        raise IndexBuildError(f"index.backend gpu: {why}; change that, or set index.backend to auto")


def train_index(index: FaissIndex, plan: IndexPlan, sample: Floats, backend: str, seed: int) -> None:
    """Trains quantizers on float32[S, padded_dim], k-means on all GPUs where there are some; in place."""
    if plan.kind not in IVF_KINDS:
        return
    if backend == TORCH:
        from recspark.index.torch_backend import train_with_torch  # the one place where both engines meet

        train_with_torch(index, plan, sample, seed)
        return
    on_gpu = backend != CPU and faiss.get_num_gpus() > 0
    inner = inner_index(index)
    if on_gpu:
        inner.clustering_index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatL2(plan.padded_dim))
    index.train(np.ascontiguousarray(sample))
    if on_gpu:
        inner.clustering_index = None


def add_blocks(index: FaissIndex, plan: IndexPlan, blocks: Iterator[Block], backend: str, shard: int) -> FaissIndex:
    """A trained index with blocks added; may be another object than given."""
    if backend == TORCH and plan.kind in IVF_KINDS and plan.nbits != 4:  # 4-bit codes are packed by faiss alone
        from recspark.index.torch_backend import add_with_torch

        add_with_torch(index, plan, blocks)
        return index
    num_gpus = faiss.get_num_gpus() if backend in ("auto", GPU) and find_gpu_misfit(plan) is None else 0
    target = index
    if num_gpus:  # shards on several GPUs: by the rank on this host, else in turn
        device = int(os.environ.get("LOCAL_RANK", shard)) % num_gpus
        target = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), device, index)
    # Several threads link an HNSW graph in the order they happen to run: one makes the same graph every time.
    with omp_threads(1 if plan.kind == "hnsw" else faiss.omp_get_max_threads()):
        for ids, vectors in blocks:
            target.add_with_ids(vectors, ids)
    return faiss.index_gpu_to_cpu(target) if num_gpus else target


def find_gpu_misfit(plan: IndexPlan) -> str | None:
    """Why faiss cannot hold lists of this plan on a GPU, None where it can; training's k-means always can run there."""
    if plan.kind == "ivf_flat":
        return None
    if plan.kind != "ivf_pq":
        return f"{plan.kind} has no form on a GPU"
    width = plan.padded_dim // plan.m
    if plan.nbits != 8:
        return f"IVFPQ has 8 bits only on a GPU, index.nbits is {plan.nbits}"
    if plan.m not in GPU_SUB_VECTORS:
        return f"IVFPQ on a GPU takes m of {', '.join(map(str, GPU_SUB_VECTORS))}, the plan has {plan.m}"
    if width not in _GPU_SUB_DIMS:
        known = ", ".join(map(str, _GPU_SUB_DIMS))
        return f"IVFPQ on a GPU takes {known} dimensions a sub-vector, the plan has {width}"
    return None


def describe_backend(plan: IndexPlan, backend: str) -> str:
    """``faiss-cpu``, or what the GPUs do."""
    if backend == TORCH and plan.kind in IVF_KINDS:
        from recspark.index.torch_backend import choose_device

        return f"torch on {choose_device()}, files by faiss {faiss.__version__}"
    gpus = faiss.get_num_gpus() if backend != CPU else 0
    if gpus == 0 or plan.kind not in IVF_KINDS:
        return f"faiss {faiss.__version__} on the CPU, {faiss.omp_get_max_threads()} threads"
    why = find_gpu_misfit(plan)
    adding = f"adding on the CPU ({why})" if why else "adding on the GPUs"
    return f"faiss {faiss.__version__}, k-means on {gpus} GPUs, {adding}"


@contextmanager
def omp_threads(num_threads: int) -> Iterator[None]:
    """Runs faiss with so many threads inside the block."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(num_threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
