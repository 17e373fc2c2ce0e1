"""The index on a GPU: by faiss-gpu and by torch, with the recall of faiss-cpu and files that it reads."""

import faiss
import numpy as np
import pytest

from recspark.index import backends
from recspark.index.files import read_faiss, write_faiss
from tests.helpers.index_backends import CASES, build_by, recall_at_10, unit_vectors

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.gpu
HAS = {"torch": torch.cuda.is_available(), "gpu": faiss.get_num_gpus() > 0}


@pytest.fixture(scope="module")
def vectors():
    return unit_vectors(50_000)


@pytest.mark.parametrize("knobs", CASES)
@pytest.mark.parametrize("backend", HAS)
def test_recall_is_that_of_the_cpu(vectors, tmp_path, backend, knobs):
    if not HAS[backend]:
        pytest.skip("no CUDA device" if backend == "torch" else "faiss sees no GPU (faiss-gpu is not installed)")
    plan, ours = build_by(backend, vectors, **knobs)
    _, theirs = build_by("cpu", vectors, **knobs)
    assert "CPU," not in backends.describe_backend(plan, backend)
    assert recall_at_10(ours, vectors) >= recall_at_10(theirs, vectors) - 0.005
    write_faiss(ours, str(tmp_path / "a.faiss"))
    read = read_faiss(str(tmp_path / "a.faiss"))
    assert type(read) is type(theirs)
    np.testing.assert_array_equal(read.search(vectors[:50], 5)[1], ours.search(vectors[:50], 5)[1])
