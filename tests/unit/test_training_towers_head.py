"""A ranking head from a lake to lists: the towers learn as without it, and every path serves its order."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from recspark.config import Run
from recspark.errors import LakeError
from recspark.evaluate.ranking_head_file import FACT, read_ranking_head
from recspark.index.item_vectors import read_item_vectors
from recspark.index.job import build_index
from recspark.lake.arrow import find_done, find_table, read_table
from recspark.lake.folders import read_manifest
from recspark.pipeline.evaluate_stage import evaluate, model_id_of
from recspark.pipeline.rankers import RETRIEVAL
from recspark.releases.activate import activate
from recspark.releases.publish import publish
from recspark.releases.reader import open_release
from recspark.releases.registry import read_registry
from recspark.releases.verify import verify_release
from recspark.retrieval.query import recommend_for_user
from recspark.retrieval.rerank import open_reranker
from recspark.retrieval.rules import ListRules
from recspark.retrieval.serving import Pinned, Recommender, read_blocks
from recspark.training.estimate import describe_training
from recspark.training.job import train
from recspark.training.towers import backend as tower_backend
from tests.helpers.tiny_lake import plan_tiny
from tests.helpers.tower_lake import TRAINING
from tests.helpers.training_lake import vectors_of, write_topic_sessions

HEAD = {"kind": "target_attention", "candidates": 12, "num_negatives": 6, "attention_hidden": [8], "hidden": [16, 8]}
SERVED, PLAIN = "two_tower", f"two_tower{RETRIEVAL}"


def plan(folder: Path, has_head: bool = True, joint: float = 0.0, **training: Any) -> Run:
    """A run with an index and a release."""
    ranking = HEAD | {"joint": joint} if has_head else {}
    return plan_tiny(
        folder,
        model={"kind": "two_tower", "embedding_dim": 8, "towers": {"ranking": ranking}},
        training=TRAINING | training,
        baselines={"names": ["popularity"]},
        evaluate={"ks": [5, 12]},
        index={"kind": "flat", "num_queries": 10},
        release={"num_canaries": 10},
        run={"seed": 7},
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained, indexed and evaluated."""
    found = plan(tmp_path_factory.mktemp("head"))
    write_topic_sessions(found)
    train(found)
    build_index(found)
    evaluate(found)
    return found


def lists_of(run: Run, label: str) -> dict[str, tuple[list[str], list[float]]]:
    table = find_table(run.lake, run.stages["evaluate"], "recommendations")
    rows = read_table(table, filters=[("purpose", "=", "test"), ("model_id", "=", model_id_of(run, label))])
    return {row["user_id"]: (row["item_ids"], row["scores"]) for row in rows.to_pylist()}


def item_vectors(run: Run) -> Any:
    rows = read_table(find_table(run.lake, run.stages["train"], "item_embeddings"))
    return vectors_of(rows.filter(pc.equal(rows["model_id"], run.stages["train"].id)).sort_by("idx"))


def test_the_towers_learn_as_without_a_head(run: Run, tmp_path: Path) -> None:
    without = plan(tmp_path, has_head=False)
    write_topic_sessions(without)
    train(without)
    np.testing.assert_array_equal(item_vectors(run), item_vectors(without))
    facts = find_done(without.lake, without.stages["train"])[1].facts  # type: ignore[index]
    assert FACT not in facts
    assert without.stages["train"].key != run.stages["train"].key


def test_a_joint_head_changes_the_towers(run: Run, tmp_path: Path) -> None:
    joint = plan(tmp_path, joint=1.0, epochs=1)
    write_topic_sessions(joint)
    train(joint)
    assert np.abs(item_vectors(joint) - item_vectors(run)).max() > 1e-3


def test_the_report_has_what_is_served_beside_what_is_retrieved(run: Run) -> None:
    facts = find_done(run.lake, run.stages["evaluate"])[1].facts  # type: ignore[index]
    assert facts["models"] == [SERVED, PLAIN, "popularity"]
    assert facts["trained"] == SERVED
    assert facts["model_ids"][SERVED] == run.stages["train"].id
    assert facts["model_ids"][PLAIN].startswith(f"{PLAIN}-")
    for label in (SERVED, PLAIN):
        assert facts["metrics"][label]["recall@5"] > 0.4  # chance is .09
    assert facts["metrics"][SERVED]["recall@12"] == facts["metrics"][PLAIN]["recall@12"]  # the same twelve


def test_lists_are_the_retrieved_ones_in_another_order(run: Run) -> None:
    served, plain = lists_of(run, SERVED), lists_of(run, PLAIN)
    assert served.keys() == plain.keys()
    for user, (items, scores) in served.items():
        assert sorted(items) == sorted(plain[user][0])
        assert scores == sorted(scores, reverse=True)
    assert sum(items != plain[user][0] for user, (items, _) in served.items()) > len(served) / 4


def test_the_head_has_learned_something(run: Run) -> None:
    head = read_ranking_head(run.lake, run.stages["train"].id)
    assert head.spec.to_facts() == {"candidates": 12, "max_items": 50, "weights": "raw", "gain": pytest.approx(8**0.5)}
    for name in ("mlp.layers.1.weight", "places", "attention.maps.2.weight"):
        assert np.abs(head.arrays[name]).max() > 0.01
    assert head.arrays["attention.slopes"] != pytest.approx(0.25, abs=1e-4)


def test_a_dry_run_counts_it(run: Run) -> None:
    def describe(has_head: bool) -> dict[str, str]:
        own = plan(Path(run.lake).parent, has_head, epochs=2)
        _, *lines = describe_training(own).splitlines()
        return {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}

    weights, scores = 3 * 8 * 8 + 8 + 8 + 1 + 1, 4 * 8 * 16 + 16 + 16 * 8 + 8 + 8 + 2
    parameters = weights + scores + 50 * 8 + 1
    with_head, without = describe(True), describe(False)
    assert with_head["ranking"] == f"target_attention, {parameters:,} parameters; ranks 12 items a list again"
    assert "ranking" not in without
    assert with_head["parameters"].startswith(f"60 rows x 8: {60 * 18 + 3 * parameters:,} numbers")
    assert without["parameters"].startswith(f"60 rows x 8: {60 * 18:,} numbers")
    assert "as model" in with_head["estimate"]  # the fixture's; one without a head is no measure for it
    assert "tried on the first batches" in without["estimate"]


def test_the_file_stands_in_the_manifest(run: Run) -> None:
    manifest = read_manifest(run.lake, "models", run.stages["train"].id)
    assert manifest is not None
    assert "ranking_head.npz" in {file.path for file in manifest.files}


def pinned(run: Run, index_id: str | None) -> Pinned:
    names = ("items", "users", "user_histories", "item_embeddings")
    tables = {name: find_table(run.lake, run.producer(name), name) for name in names}
    return Pinned(run.lake, **tables, index_id=index_id)


@pytest.mark.parametrize("by_index", [False, True])
def test_batches_and_queries_serve_the_same_list(run: Run, by_index: bool) -> None:
    source = pinned(run, run.stages["index"].id if by_index else None)
    recommender = Recommender(source, ListRules(k=4, depth=4, mask_seen=True))
    rows = [row for block in read_blocks(source) for row in recommender.list_users(block["user_id"], block).to_pylist()]
    lists = {row["user_id"]: row for row in rows}
    for user in ("u3", "u40", "u200"):
        found = recommend_for_user(run, user, 4)
        assert [n.item_id for n in found] == lists[user]["item_ids"]
        assert [n.score for n in found] == pytest.approx(lists[user]["scores"], rel=1e-4, abs=1e-4)


def test_a_release_serves_it_and_checks_its_file(run: Run, tmp_path: Path) -> None:
    shutil.copytree(Path(run.lake).parent, tmp_path / "copy")
    own = plan(tmp_path / "copy")
    release_id = publish(own).release_id
    activate(own.lake, release_id)
    row = read_registry(own.lake).rows[release_id]
    histories = [["i1", "i6", "i11"], ["i2"]]
    with open_release(own.lake) as release:
        found = release.recommend(histories, 5).item_ids
        retrieved = release.recommend(histories, 12).item_ids
    assert [items[:5] for items in retrieved] == found
    path = Path(own.lake, "models", own.stages["train"].id, "ranking_head.npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))
    flaws = {check.name: check.flaw for check in verify_release(own.lake, row) if check.flaw}
    assert list(flaws) == [f"models/{own.stages['train'].id}"]
    assert "ranking_head.npz" in flaws[f"models/{own.stages['train'].id}"]
    with pytest.raises(LakeError, match=r"ranking_head\.npz"):
        open_release(own.lake)


def test_a_resumed_training_has_the_same_head(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by an error after step 17; the checkpoint of step 14 is the newest."""
    again, steps, step = plan(tmp_path), 0, tower_backend.TowerBackend.step
    write_topic_sessions(again)

    def failing(self: Any, prepared: Any, rate: float) -> None:
        nonlocal steps
        steps += 1
        if steps > 17:
            raise RuntimeError("the power went")
        step(self, prepared, rate)

    with monkeypatch.context() as patch:
        patch.setattr(tower_backend.TowerBackend, "step", failing)
        with pytest.raises(RuntimeError, match="the power went"):
            train(again)
    train(again)
    expected, found = (read_ranking_head(r.lake, r.stages["train"].id).arrays for r in (run, again))
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_published_model_keeps_its_head_when_its_embeddings_are_written_again(run: Run, tmp_path: Path) -> None:
    shutil.copytree(Path(run.lake).parent, tmp_path / "copy")
    own = plan(tmp_path / "copy")
    for table in ("item_embeddings", "user_embeddings"):
        shutil.rmtree(Path(own.lake, "tables", table))
    train(own)
    embeddings = find_table(own.lake, own.stages["train"], "item_embeddings")
    reranker = open_reranker(read_item_vectors(embeddings), embeddings)
    assert reranker is not None
    assert reranker.num_candidates == 12
