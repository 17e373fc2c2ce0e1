"""Warm starts: rows worked by hand, loops as oracle, whole trainings on both backends, every refusal."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
from safetensors.numpy import save_file

from recspark.config import Run
from recspark.contracts.manifest import Manifest
from recspark.errors import LakeError, TrainingError
from recspark.lake.arrow import find_done, find_table, open_table, read_table
from recspark.lake.folders import publish_folder
from recspark.training.cpu_backend import CpuBackend
from recspark.training.earlier_model import EarlierModel, map_tensors, open_earlier_model
from recspark.training.inputs import TrainInputs
from recspark.training.job import train
from recspark.training.starting_model import check_split, check_start, find_model_to_start
from recspark.training.warm_start import StartRows, plan_start
from tests.helpers.tiny_lake import plan_tiny, rows_of, write_graph, write_stage
from tests.helpers.training_lake import TRAINING, plan_training, write_topic_sessions

MODEL_ID = "0123456789ab"
NAMES = ("input_vectors", "output_vectors", "input_squares", "output_squares")


def model_of(ids: list[str | None], dim: int = 2) -> EarlierModel:
    """Row r holds 10 r + place; output the negative of it; step sizes r and 100 r."""
    row = np.arange(len(ids), dtype=np.float32)
    vectors = 10 * row[:, None] + np.arange(dim, dtype=np.float32)
    arrays = dict(zip(NAMES, (vectors, -vectors, row, 100 * row), strict=True))
    parts = [{name: array[own] for name, array in arrays.items()} for own in (slice(0, 2), slice(2, None))]
    return EarlierModel(MODEL_ID, tuple(parts), pa.array(ids))


def inputs_of(
    folder: Path, ids: list[str], edges: dict[int, list[int]] | None = None, **features: list[Any]
) -> TrainInputs:
    """The items of a run with these ids and item features, and its graph."""
    run = plan_tiny(folder)
    items = [{"item_idx": i, "item_id": name, "num_events": 1} for i, name in enumerate(ids)]
    named = {f"f_{name}": values for name, values in features.items()}
    write_stage(run, "sessions", {"items": rows_of("items", items, **named)})
    graph = None
    if edges is not None:
        write_graph(run, "graph", {src: [(d, 1.0) for d in dst] for src, dst in edges.items()})
        graph = find_table(run.lake, run.stages["graph"], "item_graph")
    table = find_table(run.lake, run.stages["sessions"], "items")
    return TrainInputs({}, table, None, None, np.ones(len(ids), np.int64), graph)


def all_rows(start: StartRows, num_items: int) -> dict[int, list[float]]:
    """Starting input vectors of the items that have one."""
    places, rows = start.rows_of(np.arange(num_items))
    return dict(zip(places.tolist(), rows["input_vectors"].tolist(), strict=True))


def test_rows_worked_by_hand(tmp_path):
    model = model_of(["a", "b", None, "d"])  # the third was never learned
    ids = ["d", "new", "c", "a", "far", "lone", "b"]
    edges = {1: [3, 6, 4], 4: [1], 0: [3], 2: [5]}  # new - a, b and far; far - new; d - a; c - lone
    inputs = inputs_of(
        tmp_path, ids, edges,
        brand=["x", None, None, "y", "x", None, "x"],
        genre=[["p"], [], ["q", "p", "q"], ["p", "r"], None, ["s"], ["r"]],
    )  # fmt: skip
    start = plan_start(model, inputs, ("brand", "genre"))
    assert all_rows(start, 7) == {
        0: [30, 31],  # d
        1: [5, 6],  # mean of a and b; far is unknown itself
        2: [15, 16],  # c: q is of no known item; p is of d and a
        3: [0, 1],  # a
        4: [20, 21],  # far: its neighbour is unknown; x is of d and b
        6: [10, 11],  # b
    }
    assert start.counts == {"known": 3, "from_neighbours": 1, "from_content": 2, "fresh": 1, "left_out": 0}
    assert start.to_facts() == {"model_id": MODEL_ID, **start.counts}
    places, rows = start.rows_of(np.array([6, 5, 1]))
    assert places.tolist() == [0, 2]
    assert rows["output_vectors"].tolist() == [[-10, -11], [-5, -6]]
    assert rows["input_squares"].tolist() == [1, 0.5]
    assert rows["output_squares"].tolist() == [100, 50]


def test_only_what_is_asked_for_counts(tmp_path):
    model, ids = model_of(["a", "b"]), ["a", "new", "b"]
    inputs = inputs_of(tmp_path, ids, None, brand=["x", "x", "y"])
    assert plan_start(model, inputs).counts == {
        "known": 2, "from_neighbours": 0, "from_content": 0, "fresh": 1, "left_out": 0,
    }  # fmt: skip
    assert all_rows(plan_start(model, inputs, ("brand",)), 3)[1] == [0, 1]


def test_rare_items_start_from_nothing_but_others_start_from_them(tmp_path):
    model, ids = model_of(["a", "b"]), ["a", "b", "near", "far", "rare"]
    inputs = inputs_of(tmp_path, ids, {2: [1], 4: [0]}, brand=["x", "y", "z", "y", "x"])
    inputs = replace(inputs, num_events=np.array([3, 2, 3, 3, 0]))
    start = plan_start(model, inputs, ("brand",), min_count=3)
    assert all_rows(start, 5) == {0: [0, 1], 2: [10, 11], 3: [10, 11]}
    assert start.counts == {"known": 1, "from_neighbours": 1, "from_content": 1, "fresh": 0, "left_out": 2}
    everything = {0: [0, 1], 1: [10, 11], 2: [10, 11], 3: [10, 11], 4: [0, 1]}
    assert all_rows(plan_start(model, inputs, ("brand",)), 5) == everything  # what has no events yet may be served


@pytest.mark.parametrize("seed", range(5))
def test_rows_equal_loops_for_any_part_of_the_items(tmp_path, seed):
    random = np.random.default_rng(seed)
    num_earlier, num_items = 30, 40
    model = model_of([f"i{i}" if random.random() < 0.8 else None for i in range(num_earlier)], dim=3)
    ids = [f"i{i}" for i in random.permutation(60)[:num_items]]
    edges = {i: random.choice(num_items, 3, replace=False).tolist() for i in range(0, num_items, 2)}
    brand = [str(random.integers(5)) if random.random() < 0.7 else None for _ in ids]
    genre = [[str(g) for g in random.integers(0, 4, random.integers(3))] for _ in ids]
    inputs = inputs_of(tmp_path, ids, edges, brand=brand, genre=genre)
    start = plan_start(model, inputs, ("brand", "genre"))

    earlier = {name: row for row, name in enumerate(model.item_ids.to_pylist()) if name}
    vectors = np.concatenate([part["input_vectors"] for part in model.parts])
    known = {i: vectors[earlier[name]] for i, name in enumerate(ids) if name in earlier}
    expected = dict(known)
    for i in set(range(num_items)) - set(known):
        around = [known[j] for j in edges.get(i, []) if j in known]
        alike = [[v for j, v in known.items() if brand[j] == brand[i]]] if brand[i] is not None else []
        alike += [[v for j, v in known.items() if g in genre[j]] for g in set(genre[i])]
        means = [np.mean(vectors, axis=0) for vectors in alike if vectors]
        if around or means:
            expected[i] = np.mean(around or means, axis=0)
    found = all_rows(start, num_items)
    assert set(found) == set(expected)
    for i, vector in expected.items():
        np.testing.assert_allclose(found[i], vector, rtol=1e-5)
    some = random.permutation(num_items)[:13]
    places, rows = start.rows_of(some)
    assert {int(some[p]): r for p, r in zip(places, rows["input_vectors"].tolist(), strict=True)} == {
        i: found[i] for i in found if i in some
    }


def test_other_ids_are_refused_with_both(tmp_path):
    inputs = inputs_of(tmp_path, ["x", "y"])
    with pytest.raises(
        TrainingError, match=r"knows none of this run's 2 items: theirs are called x, y, those .* a, b;"
    ):
        plan_start(model_of(["a", None, "b"]), inputs)


def publish(
    folder: Path, inputs: TrainInputs, tensors: dict[str, Any], model_id: str = MODEL_ID, kind: str = "skip_gram",
    **model: str,
) -> Manifest:  # fmt: skip
    target = folder / "lake" / "models" / model_id
    target.mkdir(parents=True)
    save_file(tensors, target / "vectors.safetensors")
    facts = {"model_kind": kind, "embedding_dim": 4}
    return publish_folder(
        str(folder / "lake"), "models", model_id, ["vectors.safetensors"], counts={}, config={"model": model},
        inputs={"items": inputs.items.version}, facts=facts, run_id="r",
    )  # fmt: skip


def tensors_of(num_items: int, dim: int) -> dict[str, Any]:
    row = np.arange(num_items, dtype=np.float32)
    table = np.repeat(row[:, None], dim, axis=1)
    is_trained = (np.arange(num_items) != 1).astype(np.uint8)
    return {"input": table, "output": -table, "input_squares": row, "output_squares": row, "is_trained": is_trained}


def test_a_published_model_is_opened_with_the_ids_of_its_own_items(tmp_path):
    inputs = inputs_of(tmp_path, ["a", "b", "c"])
    tensors = tensors_of(3, 4)
    model = open_earlier_model(inputs.items.lake, publish(tmp_path, inputs, tensors), inputs.items, has_output=True)
    assert model.item_ids.to_pylist() == ["a", None, "c"]
    (arrays,) = model.parts
    assert set(arrays) == set(NAMES)
    np.testing.assert_array_equal(arrays["output_vectors"], tensors["output"])
    mapped = map_tensors(str(tmp_path / "lake" / "models" / MODEL_ID / "vectors.safetensors"))
    assert all(isinstance(array, np.memmap) and np.array_equal(array, tensors[n]) for n, array in mapped.items())


def test_a_model_of_several_parts_is_one(tmp_path):
    """As four ranks write three items."""
    inputs, tensors = inputs_of(tmp_path, ["a", "b", "c"]), tensors_of(3, 4)
    target = tmp_path / "lake" / "models" / MODEL_ID
    target.mkdir(parents=True)
    names = [f"vectors-0000{rank}-of-00004.safetensors" for rank in range(4)]
    for rank, name in enumerate(names):
        rows = slice(rank * 3 // 4, (rank + 1) * 3 // 4)
        save_file({key: np.ascontiguousarray(array[rows]) for key, array in tensors.items()}, target / name)
    manifest = publish_folder(
        str(tmp_path / "lake"), "models", MODEL_ID, names[::-1], counts={}, config={},
        inputs={"items": inputs.items.version}, facts={}, run_id="r",
    )  # fmt: skip
    model = open_earlier_model(inputs.items.lake, manifest, inputs.items, has_output=True)
    assert model.item_ids.to_pylist() == ["a", None, "c"]
    found = model.weigh(sp.csr_array(np.array([[0, 0, 1], [0.5, 0.5, 0]], np.float32)))
    assert set(found) == set(NAMES)
    np.testing.assert_array_equal(found["output_vectors"], [[-2] * 4, [-0.5] * 4])
    np.testing.assert_array_equal(found["input_squares"], [2, 0.5])


@pytest.mark.parametrize(("objective", "has_output"), [("hierarchical_softmax", True), ("negative_sampling", False)])
def test_output_rows_that_are_no_items_are_left_out(tmp_path, objective, has_output):
    inputs = inputs_of(tmp_path, ["a", "b", "c"])
    manifest = publish(tmp_path, inputs, tensors_of(3, 4), objective=objective)
    model = open_earlier_model(inputs.items.lake, manifest, inputs.items, has_output)
    assert set(model.parts[0]) == {"input_vectors", "input_squares"}


def test_a_model_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    inputs = inputs_of(tmp_path, ["a", "b", "c"])

    lake = inputs.items.lake
    with pytest.raises(
        TrainingError, match=r"no model 0123456789ab in .*models; there is none yet; set training.warm_st"
    ):
        find_model_to_start(lake, MODEL_ID, 4)
    manifest = publish(tmp_path, inputs, tensors_of(3, 4))
    assert find_model_to_start(lake, MODEL_ID, 4) == manifest
    with pytest.raises(TrainingError, match=r"no model ffffffffffff in .*; there is 0123456789ab$"):
        find_model_to_start(lake, "ffffffffffff", 4)
    with pytest.raises(
        TrainingError, match=r"has vectors of 4 floats, model.embedding_dim is 8; set it to 4, or leave"
    ):
        find_model_to_start(lake, MODEL_ID, 8)
    publish(tmp_path, inputs, tensors_of(3, 4), "aaaaaaaaaaaa", kind="ppmi_svd")
    with pytest.raises(TrainingError, match=r"aaaaaaaaaaaa of .* is of model.kind ppmi_svd: it takes models of the sk"):
        find_model_to_start(lake, "aaaaaaaaaaaa", 4)
    old = publish(tmp_path, inputs, {"input": np.ones((3, 4), np.float32)}, "bbbbbbbbbbbb")
    with pytest.raises(TrainingError, match=r"has no output, input_squares.*made by another version of recspark; tr"):
        open_earlier_model(lake, old, inputs.items, has_output=True)
    (tmp_path / "lake" / "models" / MODEL_ID / "vectors.safetensors").write_bytes(b"x")
    with pytest.raises(LakeError, match="1 bytes, the manifest says"):
        open_earlier_model(lake, manifest, inputs.items, has_output=True)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished training that later ones start from."""
    run = plan_training(tmp_path_factory.mktemp("earlier"), backend="cpu")
    write_topic_sessions(run)
    train(run)
    return run


def plan_later(folder: Path, earlier: Run, **training: Any) -> Run:
    """A run on other events (so another lake) whose items are numbered otherwise."""
    start = {"model_id": earlier.stages["train"].id, "lake": earlier.lake, "neighbours": False}
    run = plan_training(folder, **({"warm_start": start, "epochs": 1} | training))
    write_renumbered(run)
    return run


def write_renumbered(run: Run, num_items: int = 62) -> None:
    """Sessions of items called i0 ... i61, of which i60 and i61 are new; item i is row 61 - i."""
    random = np.random.default_rng(5)
    last = num_items - 1
    sessions = [(last - (random.integers(5) + 5 * random.integers(0, 12, 6))).tolist() for _ in range(200)]
    sessions += [[0, 1, 5, 6], [0, 1]] * 4  # the new ones
    counts = np.bincount(np.concatenate(sessions), minlength=num_items)
    items = [{"item_idx": i, "item_id": f"i{last - i}", "num_events": int(n)} for i, n in enumerate(counts)]
    rows = [{"session_id": f"s{s}", "user_idx": s, "item_idx": i, "split": "train"} for s, i in enumerate(sessions)]
    write_stage(run, "sessions", {"items": rows_of("items", items), "sessions": rows_of("sessions", rows)})


def tensors_of_model(run: Run) -> dict[str, Any]:
    return map_tensors(str(Path(run.lake, "models", run.stages["train"].id, "vectors.safetensors")))


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_training_goes_on_from_the_earlier_rows(earlier, tmp_path, capsys, backend):
    """With next to no rate the known items end where the earlier model left them, whatever their number now."""
    run = plan_later(tmp_path, earlier, backend=backend, learning_rate=1e-9)
    train(run)
    before, after = tensors_of_model(earlier), tensors_of_model(run)
    known = np.flatnonzero(before["is_trained"])  # item i of the earlier model is row 61 - i
    for name in ("input", "output"):
        np.testing.assert_allclose(after[name][61 - known], before[name][known], atol=1e-6)
    assert (after["input_squares"][61 - known] >= before["input_squares"][known]).all()
    assert not np.allclose(after["input"][:2], before["input"][:2])  # new ones are nobody's
    _, record = find_done(run.lake, run.stages["train"])
    counts = {"known": 58, "from_neighbours": 0, "from_content": 0, "fresh": 4, "left_out": 0}
    facts = {"model_id": earlier.stages["train"].id, **counts}
    assert record.facts["warm_start"] == facts
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    [said] = [line for line in lines if line["message"] == f"starts from model {facts['model_id']}"]
    assert {k: said[k] for k in facts if k != "model_id"} == {k: v for k, v in facts.items() if k != "model_id"}


def first_losses(run: Run) -> list[float]:
    path = Path(run.lake, "checkpoints", run.stages["train"].key, "metrics.jsonl")
    return [json.loads(line)["loss"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_a_warm_start_begins_where_a_cold_one_ends(earlier, tmp_path, backend):
    """The loss stays low from the first step on: without the step sizes the second step would undo the start."""
    warm, cold = (plan_later(tmp_path / n, earlier, backend=backend, **more) for n, more in
                  (("warm", {}), ("cold", {"warm_start": None, "epochs": 3})))  # fmt: skip
    train(warm)
    train(cold)
    assert max(first_losses(warm)) < np.mean(first_losses(cold)[:3])


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_known_items_too_rare_to_learn_from_are_left_out(earlier, tmp_path, backend):
    run = plan_later(tmp_path, earlier, backend=backend, min_count=20)
    train(run)
    items = read_table(find_table(run.lake, run.stages["sessions"], "items")).to_pylist()
    names = {kept: {item["item_id"] for item in items if (item["num_events"] >= 20) == kept} for kept in (False, True)}
    known = {f"i{i}" for i in range(58)}
    assert len(names[False] & known) > 5
    assert len(names[True] & known) > 5
    found = find_table(run.lake, run.stages["train"], "item_embeddings")
    assert set(read_table(found)["id"].to_pylist()) == names[True]
    assert found.record.facts["warm_start"]["known"] == len(names[True] & known)
    assert found.record.facts["warm_start"]["left_out"] == len(names[False])


def test_a_resume_does_not_start_again(earlier, tmp_path, monkeypatch):
    """Cut off after a checkpoint and resumed, it ends as the undisturbed one: the start is no second start."""
    undisturbed, cut = (plan_later(tmp_path / name, earlier, backend="cpu", epochs=4) for name in ("a", "b"))
    train(undisturbed)
    answers = iter((True, False))
    monkeypatch.setattr(CpuBackend, "is_finite", lambda _: next(answers))
    with pytest.raises(TrainingError, match="the checkpoint of step 5 stays"):
        train(cut)
    monkeypatch.undo()
    train(cut)
    for name, array in tensors_of_model(undisturbed).items():
        np.testing.assert_array_equal(tensors_of_model(cut)[name], array)


def test_neighbours_come_from_the_run_s_own_graph(earlier, tmp_path):
    start = {"model_id": earlier.stages["train"].id, "lake": earlier.lake}
    training = TRAINING | {"backend": "cpu", "epochs": 1, "warm_start": start, "learning_rate": 1e-9}
    run = plan_tiny(tmp_path, model={"embedding_dim": 8}, training=training, walks=None, evaluate=None, run={"seed": 7})
    write_renumbered(run)
    with pytest.raises(LakeError, match="run `recspark run CONF --to graph` first"):
        train(run)
    write_graph(run, "graph", {0: [(61, 1.0), (60, 0.5), (1, 0.2)]})  # i61: i0, i1 and i60
    train(run)
    before, after = tensors_of_model(earlier), tensors_of_model(run)
    np.testing.assert_allclose(after["input"][0], before["input"][:2].mean(0), atol=1e-6)
    _, record = find_done(run.lake, run.stages["train"])
    assert record.facts["warm_start"]["from_neighbours"] == 1
    assert record.inputs["item_graph"] == 0


TIME = {"kind": "time", "cut": "2026-02-01", "valid": None}
GIVEN = {"kind": "given", "cut": None, "valid": None}
AUTO = ("model.readout: auto",)


def until(cut: str) -> dict[str, Any]:
    """A validation slice from a time on."""
    return {"kind": "time", "cut": cut}


@pytest.mark.parametrize(
    ("before", "now", "uses_of_valid"),
    [
        (TIME, TIME, AUTO),
        (TIME, TIME | {"cut": "2026-02-01T00:00:00Z"}, AUTO),
        (TIME, TIME | {"cut": "2026-03-01"}, ()),
        (TIME | {"valid": {"kind": "user_share"}}, TIME, ()),
        (TIME, TIME | {"valid": {"kind": "user_share"}}, ()),
        (TIME, TIME | {"cut": "2026-03-01", "valid": until("2026-02-01")}, AUTO),  # the next day's model
        (TIME | {"valid": until("2026-01-20")}, TIME | {"valid": until("2026-01-20T00:00:00Z")}, AUTO),
        (GIVEN, GIVEN, AUTO),
        (None, GIVEN, AUTO),
    ],
)
def test_a_model_of_the_past_may_be_started_from(before, now, uses_of_valid):
    check_split(MODEL_ID, before, now, uses_of_valid)


@pytest.mark.parametrize(
    ("before", "now", "uses_of_valid", "message"),
    [
        (TIME | {"cut": "2026-02-02"}, TIME, (), r"learned from events up to 2026-02-02, but .* after 2026-02-01: it"),
        (TIME | {"cut": "2026-02-01T01:00:00Z"}, TIME, (), r"up to 2026-02-01T01:00:00Z, but this run holds out"),
        (GIVEN, TIME, (), r"made with split.kind given, this run has time: it may have learned from what is held"),
        (
            TIME,
            TIME | {"valid": {"kind": "user_share"}},
            AUTO,
            r"with split.valid None, this run has {'kind': 'user_share'} and uses that slice \(model.readout: auto\):",
        ),
        (TIME, TIME | {"valid": until("2026-01-20")}, AUTO, r"the model may have learned from it"),
        (
            TIME | {"valid": until("2026-01-21")},
            TIME | {"valid": until("2026-01-20")},
            ("evaluate.split: valid",),
            r"uses that slice \(evaluate.split: valid\)",
        ),
    ],
)
def test_a_model_that_knows_what_is_held_out_is_refused(before, now, uses_of_valid, message):
    with pytest.raises(TrainingError, match=message):
        check_split(MODEL_ID, before, now, uses_of_valid)


def test_the_split_is_that_of_the_model_s_own_items(earlier, tmp_path):
    """Whatever other configs have written into table `items` since: that of the newest commit says nothing of it."""
    copy = tmp_path / "lake"
    shutil.copytree(earlier.lake, copy)
    # In the copy, a later config with a validation slice; the model was made without.
    later = plan_training(tmp_path, valid={"kind": "user_share"})
    write_topic_sessions(later, seed=1)
    start = {"model_id": earlier.stages["train"].id, "neighbours": False}
    choosing = {"valid": {"kind": "user_share"}, "model": {"readout": "auto"}}
    with pytest.raises(TrainingError, match=r"with split.valid None, this run .* \(model.readout: auto\)"):
        check_start(plan_training(tmp_path, warm_start=start, **choosing))
    scoring = {"valid": {"kind": "user_share"}, "evaluate": {"split": "valid"}}
    with pytest.raises(TrainingError, match=r"with split.valid None, this run .* \(evaluate.split: valid\)"):
        check_start(plan_training(tmp_path, warm_start=start, **scoring))
    write_topic_sessions(plan_training(tmp_path, valid={"kind": "last_k"}), seed=2)
    assert check_start(plan_training(tmp_path, warm_start=start, evaluate={})).id == earlier.stages["train"].id
    assert check_start(plan_training(tmp_path, warm_start=start, valid={"kind": "user_share"}))  # and not looked at
    assert check_start(plan_training(tmp_path)) is None


def test_a_model_whose_split_is_not_known_any_more_is_refused(earlier, tmp_path):
    shutil.copytree(earlier.lake, tmp_path / "lake")
    write_topic_sessions(plan_training(tmp_path, valid={"kind": "user_share"}), seed=1)
    open_table(str(tmp_path / "lake"), "items").create_checkpoint()
    Path(tmp_path, "lake", "tables", "items", "_delta_log", f"{0:020d}.json").unlink()
    start = {"model_id": earlier.stages["train"].id, "neighbours": False}
    with pytest.raises(TrainingError, match=r"may have learned from what is held out here: .*00\.json: not there, so"):
        check_start(plan_training(tmp_path, warm_start=start))


def test_nodes_of_a_graph_have_nothing_held_out(earlier, tmp_path):
    start = {"model_id": earlier.stages["train"].id, "lake": earlier.lake}
    source = {"kind": "edges", "path": "e.csv", "format": "csv", "directed": False}
    training = TRAINING | {"warm_start": start, "corpus": "walks"}
    run = plan_tiny(
        tmp_path, source=source, split={}, model={"embedding_dim": 8}, training=training, evaluate=None, walks={},
        graph=None,
    )  # fmt: skip
    assert check_start(run).id == earlier.stages["train"].id


def test_a_training_refuses_a_later_model(earlier, tmp_path):
    start = {"model_id": earlier.stages["train"].id, "lake": earlier.lake, "neighbours": False}
    early = plan_tiny(
        tmp_path, model={"embedding_dim": 8}, training=TRAINING | {"warm_start": start, "backend": "cpu"}, graph=None,
        walks=None, evaluate=None, split={"kind": "time", "cut": "2026-01-01"},
    )  # fmt: skip
    write_renumbered(early)
    with pytest.raises(TrainingError, match=r"up to 2026-02-01, but this run holds out what is after 2026-01-01"):
        train(early)


def test_an_earlier_model_s_lost_items_are_named(earlier, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(earlier.lake, copy)
    shutil.rmtree(copy / "tables" / "items")
    start = {"model_id": earlier.stages["train"].id, "lake": str(copy), "neighbours": False}
    run = plan_later(tmp_path / "later", earlier, backend="cpu", warm_start=start)
    with pytest.raises(TrainingError, match=r"tables/items/_delta_log/0{20}\.json: not there"):
        train(run)
