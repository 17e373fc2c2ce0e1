"""The plan's arithmetic over a sweep, its choices, and what it refuses."""

import itertools

import pytest

from recspark.config.index import IndexConfig
from recspark.errors import IndexBuildError
from recspark.index.plan import POINTS_PER_LIST, check_disk, check_memory, choose_nlist, plan_from_facts, plan_index

GIB = 2**30


def plan(num_vectors, dim=64, metric="cosine", has_bias=False, **index):
    return plan_index(IndexConfig(**index), num_vectors, dim, metric, has_bias)


@pytest.mark.parametrize(
    ("num_vectors", "num_shards", "kind", "reason"),
    [
        (2_000, 1, "flat", "2,000 vectors, below 10,000"),
        (20_000, 1, "hnsw", "20,000 vectors in one shard"),
        (20_000, 2, "ivf_flat", "full vectors take 4.9 MiB, up to 2.0 GiB they are kept"),
        (8_388_608, 1, "ivf_flat", "full vectors take 2.0 GiB"),
        (8_388_609, 1, "ivf_pq", "full vectors take 2.0 GiB, above 2.0 GiB they are coded"),
        (50_000_000, 1, "ivf_pq", "full vectors take 11.9 GiB"),
    ],
)
def test_auto_picks_by_size_alone_and_says_why(num_vectors, num_shards, kind, reason):
    found = plan(num_vectors, num_shards=num_shards)
    assert found.kind == kind
    assert reason in found.reasons[0]


def test_a_rotation_is_part_of_the_plan():
    found = plan(300_000, kind="ivf_pq", opq=True)
    assert found.name == "OPQ16,IVF2048,PQ16x8"
    assert found.build_bytes > plan(300_000, kind="ivf_pq").build_bytes
    assert "index.opq is not used: hnsw has no codes to rotate for" in plan(20_000, opq=True).reasons


def test_the_space_of_l2_has_a_column_for_bias_alone():
    assert [plan(300, 8, "l2", has_bias).dim for has_bias in (False, True)] == [8, 9]


def test_a_part_of_a_build_needs_its_share():
    found = plan(10_000_000, 128, kind="ivf_flat")
    check_memory(found, found.build_bytes // 4, 0.25)
    with pytest.raises(IndexBuildError, match="needs about"):
        check_memory(found, found.build_bytes // 5, 0.25)


def test_an_explicit_kind_wins_over_size():
    found = plan(2_000, kind="ivf_pq")
    assert (found.kind, found.nlist, found.m, found.name) == ("ivf_pq", 32, 16, "IVF32,PQ16x8")
    assert found.reasons[0] == "ivf_pq: asked for by index.kind"


def test_every_plan_can_be_trained_and_divides():
    kinds, metrics = ("flat", "ivf_flat", "ivf_pq", "hnsw"), (("cosine", False), ("cosine", True), ("ip", False))
    sizes, dims = (256, 1_000, 9_999, 123_456, 7_000_000), (2, 7, 64, 200)
    for kind, (metric, has_bias), size, dim, nbits in itertools.product(kinds, metrics, sizes, dims, (4, 8)):
        found = plan(size, dim, metric, has_bias, kind=kind, nbits=nbits, num_shards=3)
        assert found.padded_dim >= found.dim >= dim
        assert found.build_bytes > 2 * size * dim * 4
        assert plan_from_facts(found.to_facts()) == found
        if kind in ("ivf_flat", "ivf_pq"):
            assert found.nlist >= 1
            assert found.nlist * POINTS_PER_LIST <= max(found.train_size, POINTS_PER_LIST)
        if kind == "ivf_pq":
            assert found.padded_dim % found.m == 0
            assert 1 <= found.m <= found.dim
            assert found.refine == "fp16"
        else:
            assert found.refine == "none"


def test_nlist_grows_as_the_root_until_the_sample_caps_it():
    # 4 sqrt(n) is 12, 126, 400, 4000; n / 39 is 0, 25, 256, 25641
    assert [choose_nlist(None, n, n, []) for n in (10, 1_000, 10_000, 1_000_000)] == [1, 16, 256, 2048]
    assert choose_nlist(None, 1_000_000, 20_000, []) == 512  # 20,000 / 39 = 512


def test_short_codes_and_missing_refine_get_more_sub_vectors():
    assert plan(300_000, kind="ivf_pq").m == 16
    assert plan(300_000, kind="ivf_pq", nbits=4).m == 32
    assert plan(300_000, kind="ivf_pq", refine="none").m == 32


def test_code_bytes_by_hand():
    assert plan(300_000, kind="ivf_pq").code_bytes == 16 + 8
    assert plan(300_000, kind="ivf_pq", nbits=4).code_bytes == 16 + 8
    assert plan(300_000, kind="ivf_flat").code_bytes == 64 * 4 + 8
    assert plan(300_000, kind="hnsw").code_bytes == 64 * 4 + 64 * 4 + 8


def test_the_second_stage_is_part_of_what_is_searched_and_of_the_disk():
    """64 floats an item: 128 bytes more as fp16, 64 as sq8."""
    none, fp16, sq8 = (plan(300_000, kind="ivf_pq", m=16, refine=refine) for refine in ("none", "fp16", "sq8"))
    assert fp16.search_bytes - none.search_bytes == 300_000 * 128
    assert sq8.search_bytes - none.search_bytes == 300_000 * 64
    with pytest.raises(IndexBuildError, match=r"set index\.refine to none"):
        check_disk(fp16, none.search_bytes)
    check_disk(none, none.search_bytes)


def test_a_delta_takes_its_share_of_the_disk():
    found = plan(1_000_000, kind="ivf_flat")
    check_disk(found, found.search_bytes // 10, share=0.1)
    with pytest.raises(IndexBuildError, match="of disk"):
        check_disk(found, found.search_bytes // 10, share=0.2)
    with pytest.raises(IndexBuildError, match="of disk"):
        check_disk(found, found.search_bytes, is_single=True, share=0.1)


def test_padding_is_told():
    found = plan(300_000, 64, "ip", True, kind="ivf_pq", m=16)
    assert (found.dim, found.padded_dim) == (66, 80)
    assert found.reasons[-1] == (
        "padded from 66 to 80 dimensions, a multiple of m = 16 (m 11 or 22 would need no padding)"
    )


def test_unused_knobs_are_told():
    assert "index.nprobe 5 is not used: hnsw has no inverted lists" in plan(300, kind="hnsw", nprobe=5).reasons
    assert "refine fp16 is not needed: ivf_flat holds the full vectors" in plan(300, kind="ivf_flat").reasons


def test_a_thin_sample_is_told():
    assert (
        "fewer than 39 training vectors a list (up to 25 train well)"
        in plan(1_000, kind="ivf_flat", nlist=100).reasons[1]
    )


@pytest.mark.parametrize(
    ("num_vectors", "index", "message"),
    [
        (0, {}, "holds no vectors"),
        (3, {"num_shards": 4}, "index.num_shards 4 is more than the 3 items; set it to at most 3"),
        (300, {"kind": "ivf_flat", "nlist": 400}, "index.nlist 400 needs as many training vectors, there are 300"),
        (300, {"kind": "ivf_flat", "nlist": 400}, "at most 300 (7 lists train well)"),
        (9000, {"kind": "ivf_flat", "nlist": 400, "train_sample": 100}, "index.nlist to at most 100"),
        (200, {"kind": "ivf_pq"}, "trains 256 centroids a sub-vector, there are only 200 training vectors"),
        (200, {"kind": "ivf_pq"}, "set index.nbits to 4 (16 centroids) or index.kind to flat"),
        (12, {"kind": "ivf_pq", "nbits": 4}, "trains 16 centroids a sub-vector, there are only 12 training vectors"),
        (900, {"kind": "ivf_pq", "m": 65}, "index.m 65 is more than the 64 dimensions"),
        (900, {"kind": "ivf_pq", "nbits": 4, "num_shards": 2, "single_file": True}, "faiss cannot join 4-bit codes"),
        (900, {"kind": "ivf_pq", "m": 65}, "set it to at most 64 (without padding: 1, 2, 4, 8, 16, 32, 64)"),
    ],
)
def test_what_cannot_be_met_is_refused(num_vectors, index, message):
    with pytest.raises(IndexBuildError) as caught:
        plan(num_vectors, **index)
    assert message in str(caught.value)


def test_too_little_memory_is_refused_with_the_estimate():
    found = plan(10_000_000, 128, kind="ivf_flat")
    check_memory(found, found.build_bytes)
    with pytest.raises(
        IndexBuildError, match=r"IVF4096,Flat over 10,000,000 vectors needs about .* GiB .* 1.0 GiB is free"
    ):
        check_memory(found, GIB)


def test_too_little_disk_is_refused_before_anything_is_written():
    found = plan(10_000_000, 128, kind="ivf_flat")
    check_disk(found, found.search_bytes)
    check_disk(found, None)  # a store
    with pytest.raises(IndexBuildError, match=r"takes about .* GiB of disk, 1.0 GiB is free where paths.lake is; free"):
        check_disk(found, GIB)
    with pytest.raises(IndexBuildError, match=r"leave index\.single_file out, or set paths\.lake to another disk"):
        check_disk(found, found.search_bytes, is_single=True)
