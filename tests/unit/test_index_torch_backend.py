"""The torch backend on the CPU: recall of faiss' own, files that faiss reads, parts against plain arithmetic."""

import faiss
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from recspark.config.index import IndexConfig  # noqa: E402
from recspark.errors import IndexBuildError  # noqa: E402
from recspark.index import backends, torch_backend  # noqa: E402
from recspark.index.files import read_faiss, write_faiss  # noqa: E402
from recspark.index.plan import plan_index  # noqa: E402
from tests.helpers.index_backends import CASES, build_by, recall_at_10, unit_vectors  # noqa: E402


@pytest.fixture(scope="module")
def vectors():
    torch.set_num_threads(1)
    return unit_vectors()


@pytest.mark.parametrize("knobs", CASES)
def test_recall_is_that_of_faiss(vectors, knobs, tmp_path):
    ours, theirs = (build_by(backend, vectors, **knobs)[1] for backend in ("torch", "cpu"))
    assert ours.ntotal == theirs.ntotal == 6000
    assert recall_at_10(ours, vectors) >= recall_at_10(theirs, vectors) - 0.005
    write_faiss(ours, str(tmp_path / "a.faiss"))
    read = read_faiss(str(tmp_path / "a.faiss"))
    assert type(read) is type(theirs)
    np.testing.assert_array_equal(read.search(vectors[:50], 5)[1], ours.search(vectors[:50], 5)[1])


def test_codes_are_those_faiss_gives_the_same_quantizers(vectors):
    """Trained by torch, added by both: the same item in the same list with the same code, but for rounding."""
    plan, ours = build_by("torch", vectors, kind="ivf_pq", m=8, refine="none")
    theirs = faiss.clone_index(ours)
    theirs.reset()
    theirs.add_with_ids(vectors, np.arange(6000) * 2)
    pairs = [searched.search(vectors[:500], 5) for searched in (ours, theirs)]
    assert (pairs[0][1] == pairs[1][1]).mean() > 0.999
    sizes = [[index.invlists.list_size(n) for n in range(plan.nlist)] for index in (ours, theirs)]
    assert np.abs(np.subtract(*sizes)).sum() <= 6


def test_nearest_is_brute_force(vectors, monkeypatch):
    monkeypatch.setattr(torch_backend, "_BLOCK_VALUES", 1000)
    points = torch.from_numpy(vectors[:300].reshape(2, 150, 32))
    centroids = torch.from_numpy(vectors[300:340].reshape(2, 20, 32))
    found = torch_backend.nearest(points, centroids)
    wanted = (points[:, :, None] - centroids[:, None]).square().sum(-1).argmin(-1)
    assert torch.equal(found, wanted)


def test_k_means_leaves_no_centroid_empty_and_lowers_the_error(vectors):
    points = torch.from_numpy(np.repeat(vectors[:50], 20, axis=0))[None]
    draw = torch.Generator().manual_seed(1)
    start, end = (torch_backend.learn_centroids(points, 60, rounds, draw.manual_seed(1)) for rounds in (0, 10))
    errors = [torch.cdist(points[0], c[0]).min(1).values.square().sum().item() for c in (start, end)]
    assert errors[1] < errors[0] / 2
    assert torch.isfinite(end).all()


def test_a_rotation_is_orthogonal_and_codes_better(vectors):
    """Columns that carry the same thing twice: a product quantizer gains by mixing them."""
    draw = torch.Generator().manual_seed(1)
    points = torch.from_numpy((vectors[:2000] * np.linspace(3, 0.1, 32)).astype(np.float32))
    rotation = torch_backend.learn_rotation(points, 8, 16, draw)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(32), atol=1e-5, rtol=0)

    def error(rotated):
        parts = torch_backend.split_parts(rotated, 8)
        books = torch_backend.learn_centroids(parts, 16, 25, draw.manual_seed(2))
        codes = torch_backend.nearest(parts, books)
        return (parts - torch.stack([b[c] for b, c in zip(books, codes, strict=True)])).square().sum().item()

    assert error(points @ rotation.T) < 0.9 * error(points)


def test_a_machine_without_gpu_is_told():
    plan = plan_index(IndexConfig(kind="ivf_pq", m=8), 6000, 32, "cosine", has_bias=False)
    if faiss.get_num_gpus() == 0:
        with pytest.raises(IndexBuildError, match=r"index\.backend gpu: faiss .* sees no GPU here; install faiss-gpu"):
            backends.check_backend("gpu", plan)
    backends.check_backend("torch", plan)
    assert "torch on" in backends.describe_backend(plan, "torch")


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"kind": "ivf_flat"}, None),
        ({"kind": "ivf_pq", "m": 8}, None),
        ({"kind": "ivf_pq", "m": 8, "nbits": 4}, "IVFPQ has 8 bits only on a GPU, index.nbits is 4"),
        ({"kind": "ivf_pq", "m": 5}, "takes m of 1, 2, 3, 4, 8, 12"),
        ({"kind": "ivf_pq", "m": 3}, "dimensions a sub-vector, the plan has 11"),
        ({"kind": "hnsw"}, "hnsw has no form on a GPU"),
    ],
)
def test_what_a_gpu_can_hold(knobs, message):
    found = backends.find_gpu_misfit(plan_index(IndexConfig(**knobs), 6000, 32, "cosine", has_bias=False))
    assert (found is None) == (message is None)
    assert message is None or message in found
