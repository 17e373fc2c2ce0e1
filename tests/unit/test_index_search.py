"""Sharded search against exact arithmetic and against one faiss index over all vectors."""

from pathlib import Path

import faiss
import numpy as np
import pytest

from recspark.errors import QueryError
from recspark.evaluate.ragged import Ragged
from recspark.index.job import build_index
from recspark.index.lists import keep_enough
from recspark.index.store import open_index
from recspark.retrieval.recommend import recommend
from tests.helpers.index_lake import clustered, exact_top, make_items, plan_index_run, write_items

METRICS = ["cosine", "ip", "l2"]


def built(lake, items, join=True, metric="cosine", **index):
    """The opened index of a run over these items."""
    run = plan_index_run(lake, dim=items.dim, **index)
    write_items(run, items, metric=metric)
    build_index(run)
    index = open_index(run.lake, run.stages["index"].id, join_lists=join)
    index.facts["index_id"] = run.stages["index"].id
    return index


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("bias", [0.0, 0.3])
@pytest.mark.parametrize("metric", METRICS)
def test_flat_is_exact(lake, metric, bias, num_shards):
    items = make_items(700, 16, bias=bias, queries=True)
    index = built(lake, items, metric=metric, kind="flat", num_shards=num_shards)
    ids, scores = index.search(items.queries[:60], 20)
    wanted_ids, wanted_scores = exact_top(items, items.queries[:60], 20, metric)
    np.testing.assert_array_equal(ids, wanted_ids)
    np.testing.assert_allclose(scores, wanted_scores, atol=2e-6 * max(1, np.abs(wanted_scores).max()))
    assert scores.dtype == np.float32
    assert ids.dtype == np.int64


@pytest.mark.parametrize("kind", ["ivf_flat", "hnsw", "ivf_pq"])
@pytest.mark.parametrize("metric", METRICS)
def test_every_kind_scores_what_it_finds(lake, metric, kind):
    """What is found carries sim + bias: exact with full vectors, to fp16 precision after refining."""
    items = make_items(900, 16, bias=0.3, queries=True)
    index = built(lake, items, metric=metric, kind=kind, num_shards=2)
    ids, scores = index.search(items.queries[:60], 10)
    all_ids, all_scores = exact_top(items, items.queries[:60], 900, metric)
    for row in range(60):
        exact = dict(zip(all_ids[row], all_scores[row], strict=True))
        scale = np.abs(all_scores).max()
        np.testing.assert_allclose(scores[row], [exact[i] for i in ids[row]], atol=1e-3 * scale)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, all_ids[:, :10], strict=True)])
    assert recall > 0.9


def one_faiss_index(lake, index, items, nprobe):
    """All vectors in one plain faiss index with the same quantizers, as faiss itself would search it."""
    (trained,) = Path(lake).glob("indexes/*/trained.faiss")
    single = faiss.read_index(str(trained))
    single.add_with_ids(index.space.encode_vectors(items.vectors, items.bias), items.item_idx)
    faiss.extract_index_ivf(single).nprobe = nprobe
    return single


CASES = [
    ("ivf_flat", "cosine", {}), ("ivf_flat", "ip", {}), ("ivf_flat", "l2", {}),
    ("ivf_pq", "cosine", {}), ("ivf_pq", "ip", {}), ("ivf_pq", "l2", {}),
    ("ivf_pq", "cosine", {"opq": True, "m": 2, "train_sample": 700}), ("ivf_pq", "ip", {"nbits": 4}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "metric", "more"), CASES)
def test_sharded_equals_single_at_the_plans_own_nprobe(lake, kind, metric, more):
    items = make_items(3000, 16, bias=0.3)
    knobs = {"kind": kind, "metric": metric, "num_shards": 3, "refine": "none", "target_recall": 0.5} | more
    joined = built(lake, items, **knobs)
    apart = open_index(str(lake), joined.facts["index_id"], join_lists=False)
    assert [len(index.shards) for index in (joined, apart)] == [3 if more.get("nbits") == 4 else 1, 3]
    nprobe = joined.effort_for(30)
    assert nprobe < joined.shards[0].nlist / 2
    queries = clustered(200, 16, seed=5)
    encoded = joined.space.encode_queries(queries)
    distances, wanted = complete_ties(*one_faiss_index(lake, joined, items, nprobe).search(encoded.points, 300), 30)
    filled = wanted >= 0
    for index in (joined, apart):
        assert sum(shard.ntotal for shard in index.shards) == 3000
        ids, scores = index.search(queries, 30, effort=nprobe)
        np.testing.assert_array_equal(ids, wanted)
        np.testing.assert_array_equal(scores[filled], index.space.scores(distances, encoded)[filled])


def complete_ties(distances, ids, k):
    """The k nearest of a longer list of faiss', ties by smaller id: faiss keeps any of the items that tie."""
    filled = np.where(ids >= 0, distances, np.inf)
    assert (distances[:, k - 1] < filled[:, -1]).all()
    order = np.stack([np.lexsort(pair) for pair in zip(ids, filled, strict=True)])[:, :k]
    return np.take_along_axis(distances, order, 1), np.take_along_axis(ids, order, 1)


@pytest.mark.parametrize("refine", ["fp16", "sq8"])
@pytest.mark.parametrize("nbits", [8, 4])
def test_shards_and_one_shard_agree_after_refining(tmp_path, nbits, refine):
    items = make_items(2000, 16, bias=0.3, queries=True)
    knobs = {"kind": "ivf_pq", "nbits": nbits, "refine": refine, "nprobe": 4, "metric": "ip"}
    one, three = (built(tmp_path / str(n), items, join=False, num_shards=n, **knobs) for n in (1, 3))
    left, right = (index.search(items.queries[:200], 10) for index in (one, three))
    np.testing.assert_array_equal(left[0], right[0])
    np.testing.assert_array_equal(left[1], right[1])


def test_refine_lifts_recall(lake, tmp_path):
    items = make_items(3000, 32, seed=3)
    found = {}
    for refine in ("none", "sq8", "fp16"):
        knobs = {"kind": "ivf_pq", "m": 4, "nprobe": 16, "refine": refine, "num_shards": 2}
        found[refine] = built(tmp_path / refine, items, **knobs).facts["recall_at_10"]
    assert found["fp16"] > found["none"] + 0.1
    assert found["fp16"] > 0.9
    assert found["fp16"] >= found["sq8"] > 0.95


def test_more_than_there_is_pads(lake):
    items = make_items(6, 4)
    index = built(lake, items, kind="flat", num_shards=2)
    ids, scores = index.search(items.vectors[:3], 9)
    assert (ids[:, 6:] == -1).all()
    assert np.isneginf(scores[:, 6:]).all()
    assert [sorted(row) for row in ids[:, :6].tolist()] == [items.item_idx.tolist()] * 3


def test_a_list_that_the_probed_lists_cannot_fill_is_searched_on(lake):
    """An asked effort is exactly that; without one no item that is there is kept back."""
    items = make_items(900, 16)
    index = built(lake, items, kind="ivf_pq", nprobe=1)
    ids, scores = index.search(items.vectors[:20], 900, effort=1)
    assert ((ids == -1) == np.isneginf(scores)).all()
    assert (ids[:, -1] == -1).all()
    assert (ids[:, 0] >= 0).all()
    ids, _ = index.search(items.vectors[:20], 900)
    assert [sorted(row) for row in ids.tolist()] == [items.item_idx.tolist()] * 20


@pytest.mark.parametrize("kind", ["ivf_flat", "hnsw", "ivf_pq"])
def test_long_lists_are_full_and_good(lake, kind):
    items = make_items(3000, 16)
    index = built(lake, items, kind=kind, num_shards=2)
    ids, _ = index.search(items.vectors[:50], 600)
    assert (ids >= 0).all()
    assert share_found(ids, exact_top(items, items.vectors[:50], 600, "cosine")[0]) > 0.97


@pytest.mark.parametrize("kind", ["ivf_flat", "hnsw", "ivf_pq"])
def test_users_who_have_seen_all_that_is_near_get_full_lists(lake, kind):
    items = make_items(2000, 16)
    index = built(lake, items, kind=kind)
    near = exact_top(items, items.vectors[:15], 500, "cosine")[0]
    seen = Ragged.from_rows([row[:length].tolist() for row, length in zip(near, [3, 200, 500] * 5, strict=True)])
    found, wanted = (recommend(items, seen, seen.distinct(), 10, through) for through in (index, None))
    assert (found.ids >= 0).all()
    assert share_found(found.ids, wanted.ids) > 0.95


def test_enough_lists_by_hand():
    """The module's own example, and a query for which one list is enough."""
    lists, distances = np.array([[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]]), np.tile(np.arange(5, dtype=np.float32), (2, 1))
    kept_distances, kept = keep_enough(distances, lists, np.array([20, 5, 0, 10, 40]), 30, 1)
    assert kept.tolist() == [[0, 1, 3], [4, -1, -1]]
    assert kept_distances[0].tolist() == [0, 1, 3]
    assert kept_distances[1, 0] == 0
    _, kept = keep_enough(distances, lists, np.array([20, 5, 0, 10, 40]), 30, 3)
    assert kept.tolist() == [[0, 1, 3], [4, 3, -1]]  # no fewer than nprobe, but for the empty one


def share_found(ids, wanted):
    return np.mean([len(set(a) & set(b) - {-1}) / len(b) for a, b in zip(ids, wanted, strict=True)])


@pytest.mark.parametrize("join", [True, False])
@pytest.mark.parametrize("kind", ["flat", "ivf_flat", "ivf_pq"])
def test_equal_vectors_come_by_smaller_id(lake, kind, join):
    """Also where more are equal than fit: the list ends with the smallest ids, whatever their shards."""
    items = make_items(600, 16)
    items.vectors[300:500] = items.vectors[300]
    index = built(lake, items, join, kind=kind, num_shards=3, target_recall=1.0, refine_factor=2)
    ids, scores = index.search(items.vectors[300:301], 20)
    assert ids[0].tolist() == items.item_idx[300:320].tolist()
    assert len(set(scores[0].tolist())) == 1


OPQ = {"opq": True, "m": 4, "train_sample": 700}
KINDS = [("flat", {}), ("ivf_flat", {}), ("ivf_pq", OPQ), ("ivf_pq", {"nbits": 4}), ("hnsw", {})]


@pytest.mark.parametrize(("kind", "more"), KINDS)
def test_filters_hold_for_every_kind(lake, kind, more):
    items = make_items(1500, 16, queries=True)
    index = built(lake, items, kind=kind, num_shards=2, target_recall=1.0, **more)
    queries = items.queries[:40]
    odd = items.item_idx[items.item_idx % 2 == 1]
    few = items.item_idx[::100]
    ids, _ = index.search(queries, 10, allowed=odd)
    assert (ids % 2 == 1).all()
    ids, _ = index.search(queries, 10, blocked=odd)
    assert (ids % 2 == 0).all()
    ids, _ = index.search(queries, 10, allowed=odd, blocked=odd[5:])
    assert set(ids.ravel().tolist()) <= {-1, *odd[:5].tolist()}
    ids, _ = index.search(queries, 10, allowed=few)
    everything = exact_top(items, queries, 1500, "cosine")[0]
    wanted = np.stack([row[np.isin(row, few)][:10] for row in everything])
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, wanted, strict=True)]) > 0.95
    bitmap = np.zeros(10**6, np.bool_)
    bitmap[few] = True
    np.testing.assert_array_equal(index.search(queries, 10, allowed=bitmap)[0], ids)
    np.testing.assert_array_equal(index.search(queries, 10, blocked=~bitmap)[0], ids)
    unknown = np.array([-5, 10**6])
    assert (index.search(queries, 3, allowed=unknown)[0] == -1).all()


@pytest.mark.parametrize(("kind", "more"), KINDS)
def test_a_filter_that_goes_by_clusters_leaves_full_and_good_lists(lake, kind, more):
    """The allowed items are the farthest from all queries: none of the nearest lists, or a graph's steps, has any."""
    items = make_items(2000, 16)
    index = built(lake, items, kind=kind, num_shards=2, refine_factor=16, **more)
    units = items.vectors / np.linalg.norm(items.vectors, axis=1, keepdims=True)
    order = np.argsort(units @ units[0])
    queries = items.vectors[order[-50:]]
    everything = exact_top(items, queries, 2000, "cosine")[0]
    for num_allowed in (1000, 200, 40):
        far = np.sort(items.item_idx[order[:num_allowed]])
        ids, _ = index.search(queries, 10, allowed=far)
        assert np.isin(ids, far).all()
        wanted = np.stack([row[np.isin(row, far)][:10] for row in everything])
        assert share_found(ids, wanted) > 0.85  # 4-bit codes lose some, full vectors none
        np.testing.assert_array_equal(index.search(queries, 10, blocked=np.setdiff1d(items.item_idx, far))[0], ids)


@pytest.mark.parametrize(("kind", "more"), KINDS[1:4])
def test_lists_beyond_the_plans_own_are_the_same_however_items_are_spread(tmp_path, kind, more):
    items = make_items(3000, 16)
    far = items.item_idx[items.vectors @ items.vectors[0] < -5]
    knobs = {"kind": kind, "join": False, "nprobe": 2, "refine_factor": 2} | more
    found = []
    for num_shards, join in ((1, True), (3, True), (3, False)):
        index = built(tmp_path / f"{num_shards}-{join}", items, num_shards=num_shards, **knobs | {"join": join})
        found.append([*index.search(items.vectors[:60], 10, allowed=far), *index.search(items.vectors[:60], 400)])
    for other in found[1:]:
        for left, right in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(left, right)


def test_blocks_of_queries_change_nothing(lake, monkeypatch):
    """Nor do threads: each takes blocks of its own."""
    items = make_items(900, 16, queries=True)
    index = built(lake, items, kind="ivf_pq", num_shards=2)
    whole = index.search(items.queries[:50], 10)
    monkeypatch.setattr("recspark.index.search.QUERY_BLOCK", 7)
    monkeypatch.setattr("recspark.index.refine._BLOCK_BYTES", 64 * 80 * 3)
    for num_threads in (1, 3):
        parts = index.search(items.queries[:50], 10, num_threads=num_threads)
        np.testing.assert_array_equal(whole[0], parts[0])
        np.testing.assert_array_equal(whole[1], parts[1])


def test_an_error_in_a_thread_is_raised(lake, monkeypatch):
    items = make_items(90, 4)
    index = built(lake, items, kind="flat")
    monkeypatch.setattr("recspark.index.search.QUERY_BLOCK", 7)
    monkeypatch.setattr(index.space.__class__, "scores", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        index.search(items.vectors, 3, num_threads=2)


@pytest.mark.parametrize("kind", ["flat", "ivf_pq"])
def test_more_ties_than_fit_end_somewhere(lake, monkeypatch, kind):
    """Thousands of equal items: the search ends, with as many results as were asked for."""
    monkeypatch.setattr("recspark.index.shards._MOST_TIES", 50)
    items = make_items(600, 16)
    items.vectors[:] = items.vectors[0]
    index = built(lake, items, kind=kind, num_shards=3, refine="none")
    ids, scores = index.search(items.vectors[:1], 20)
    assert len(set(ids[0].tolist())) == 20
    assert len(set(scores[0].tolist())) == 1


def test_item_ids_map_to_ids(lake):
    items = make_items(30, 4)
    index = built(lake, items, kind="flat", num_shards=3)
    first = int(items.item_idx[0])
    assert index.item_ids[first] == f"item-{first}"
    assert dict(index.item_ids) == {int(i): f"item-{i}" for i in items.item_idx}
    missing = next(i for i in range(90) if i not in set(items.item_idx.tolist()))
    with pytest.raises(KeyError):
        index.item_ids[missing]


def test_queries_that_cannot_be_compared_are_refused(lake):
    index = built(lake, make_items(30, 4), kind="flat")
    with pytest.raises(QueryError, match=r"queries are \(2, 5\), the index takes \[Q, 4\]"):
        index.search(np.zeros((2, 5), np.float32), 3)
    with pytest.raises(QueryError, match="NaN or infinite"):
        index.search(np.full((2, 4), np.nan, np.float32), 3)
    assert index.search(np.zeros((0, 4), np.float32), 3)[0].shape == (0, 3)
