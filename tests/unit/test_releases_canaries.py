"""Canaries: chosen by id, asked again with the same answers, compared between releases."""

import zlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from recspark.index.store import open_index
from recspark.releases.canaries import (
    FILE,
    Canaries,
    _is_same,
    choose_canaries,
    find_canary_flaws,
    find_overlap,
    read_canaries,
)
from tests.helpers.index_lake import make_items


def canaries(**neighbours):
    """Of given names to given neighbours."""
    lists = [names.split() for names in neighbours.values()]
    return Canaries(list(neighbours), np.ones((len(lists), 2), np.float32), lists, [[1.0] * len(n) for n in lists])


def test_the_smallest_hashes_of_ids_are_chosen_whatever_the_order():
    items = make_items(300, 4)
    chosen = choose_canaries(items, 20)
    hashes = sorted(zlib.crc32(i.encode()) for i in items.item_id.to_pylist())
    assert sorted(zlib.crc32(items.item_id[int(row)].as_py().encode()) for row in chosen) == hashes[:20]
    fewer = items.take(np.arange(0, 300, 2))
    kept = {items.item_id[int(row)].as_py() for row in chosen if row % 2 == 0}
    assert kept <= {fewer.item_id[int(row)].as_py() for row in choose_canaries(fewer, 20)}


def test_items_without_a_query_are_no_canaries():
    items = make_items(10, 4)
    items.vectors[3] = 0
    assert choose_canaries(items, 50).tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_overlap_is_the_mean_share_of_common_neighbours():
    own = canaries(a="x y z", b="x y z", c="x y", d="q")
    other = canaries(a="x y z", b="y q r", c="x y", e="q")
    assert find_overlap(own, other) == (pytest.approx((1 + 1 / 3 + 1) / 3), 3)
    assert find_overlap(own, canaries(e="q")) == (0.0, 0)


@pytest.fixture
def asked(released):
    """(index, canaries) of the first release."""
    row = released.row(released.first)
    return open_index(released.lake, row.index_id), read_canaries(str(released.file("releases", row.release_id, FILE)))


def test_an_index_gives_its_own_canaries_the_same_answers(asked):
    index, found = asked
    assert len(found) == 20
    assert all(item not in ids for item, ids in zip(found.item_ids, found.neighbour_ids, strict=True))
    assert find_canary_flaws(index, found) == []


def test_places_that_do_not_tie_may_not_change(asked):
    index, found = asked
    swapped = [[ids[1], ids[0], *ids[2:]] for ids in found.neighbour_ids]
    apart = sum(scores[0] - scores[1] > 2e-3 for scores in found.scores)
    assert len(find_canary_flaws(index, replace(found, neighbour_ids=swapped))) >= apart > 10


@pytest.mark.parametrize(
    ("ids", "scores", "is_same"),
    [
        ("a b c d", [0.9, 0.9, 0.7, 0.5], True),
        ("b a c d", [0.9002, 0.8999, 0.7, 0.5], True),  # a tie has changed places
        ("a c b d", [0.9, 0.9, 0.7, 0.5], False),  # two that do not tie
        ("a b c e", [0.9, 0.9, 0.7, 0.5], True),  # the cut may fall between others
        ("a b e d", [0.9, 0.9, 0.7, 0.5], False),  # not above the cut
        ("a b c e", [0.9, 0.9, 0.7, 0.6], False),  # nor with another score
        ("b a c d", [0.95, 0.9, 0.7, 0.5], False),
        ("a b c", [0.9, 0.9, 0.7], False),
    ],
)
def test_ids_are_compared_by_the_scores_they_had(ids, scores, is_same):
    assert _is_same(["a", "b", "c", "d"], [0.9, 0.9, 0.7, 0.5], ids.split(), scores) is is_same


def test_names_that_were_shuffled_in_the_id_map_are_found(asked):
    """Items beside the canaries under each other's names: all scores are as they were."""
    index, found = asked
    names = index.item_ids.item_id.to_pylist()
    others = [row for row, name in enumerate(names) if name not in set(found.item_ids)]
    moved = dict(zip(others, others[1:] + others[:1], strict=True))
    shuffled = pa.array([names[moved.get(row, row)] for row in range(len(names))])
    index.item_ids = replace(index.item_ids, item_id=shuffled)
    assert len(find_canary_flaws(index, found)) == len(found)


def test_an_item_that_the_index_lost_is_a_flaw(asked):
    index, found = asked
    gone = replace(found, item_ids=["gone", *found.item_ids[1:]])
    (flaw,) = find_canary_flaws(index, gone)
    assert flaw.startswith("canary gone: found ")


def test_an_index_of_one_item_has_a_canary_without_neighbours(tmp_path):
    from recspark.index.job import build_index
    from recspark.releases.canaries import ask_canaries
    from tests.helpers.index_lake import plan_index_run, write_items

    items = make_items(1, 16)
    run = plan_index_run(tmp_path / "lake", kind="flat")
    write_items(run, items)
    build_index(run)
    found = ask_canaries(open_index(run.lake, run.stages["index"].id), items, 5)
    assert (found.item_ids, found.neighbour_ids) == (items.item_id.to_pylist(), [[]])
    assert pa.array(found.neighbour_ids, pa.list_(pa.string())).to_pylist() == [[]]
