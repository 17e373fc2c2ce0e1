"""The skip-gram family as a whole: both backends learn the same from the same config; bought items; markets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from recspark.config import Run
from recspark.config.schema import ModelConfig, TrainingConfig
from recspark.errors import DataError
from recspark.lake.arrow import find_done
from recspark.training import objective as objective_module
from recspark.training.backend import Backend
from recspark.training.cpu_backend import CpuBackend
from recspark.training.job import train
from recspark.training.objective import Objective, Place, build_objective
from recspark.training.torch_backend import TorchBackend
from recspark.training.world import World
from tests.helpers.family_oracle import ragged
from tests.helpers.tiny_lake import plan_tiny, rows_of, write_stage
from tests.helpers.training_lake import TRAINING, plan_training
from tests.unit.test_training_cpu_kernel import FAMILY, neighbour_purity, topic_corpus

BACKENDS = ("cpu", "torch")


def build(backend: str, objective: Objective, dim: int = 32) -> Backend:
    return CpuBackend(dim, objective) if backend == "cpu" else TorchBackend(dim, objective, World(), 1)


def fit(backend: str, objective: Objective, corpus: list[list[int]], epochs: int = 4, rate: float = 0.3):
    """(input vectors, loss a pair of the last epoch, pairs of it)."""
    fitted, parts = build(backend, objective), [corpus[start::20] for start in range(20)]
    for epoch in range(epochs):
        for step, part in enumerate(parts):
            prepared = fitted.prepare(ragged(part), Place(epoch, step, epoch * 20 + step, 0))
            fitted.step(prepared, rate * (1 - epoch / epochs))
        loss, pairs = fitted.take_loss()
    return fitted.part(range(objective.num_items)).input, loss / pairs, pairs


@pytest.mark.parametrize("model", FAMILY)
@pytest.mark.parametrize("knobs", [{}, {"window": "session"}, {"position_decay": 0.8, "noise_exponent": -0.5}], ids=str)
def test_both_backends_reach_the_same_quality(model: str, knobs: dict[str, Any]) -> None:
    corpus, num_topics = topic_corpus(rows=4000)
    counts = np.bincount(corpus.ravel(), minlength=300)
    config = TrainingConfig(num_threads=1, shared_negatives=32, **knobs)
    objective = build_objective(ModelConfig(**FAMILY[model]), config, counts, 1)
    found = {backend: fit(backend, objective, corpus.tolist()) for backend in BACKENDS}
    (cpu, cpu_loss, cpu_pairs), (torch, torch_loss, torch_pairs) = found["cpu"], found["torch"]
    assert cpu_pairs == torch_pairs
    assert cpu_loss == pytest.approx(torch_loss, rel=0.05)
    purity = [neighbour_purity(vectors, num_topics) for vectors in (cpu, torch)]
    assert min(purity) > 0.85  # by chance .1
    assert purity[0] == pytest.approx(purity[1], abs=0.05)


NUM_TOPICS, VIEWED = 4, 40
"""Items 0..39 are viewed (item i is of topic i % 4), 40..59 stand between, 60..63 are what a topic buys."""
VIEW, PURCHASE = 1, 0


def shopping_sessions(num_sessions: int = 1500) -> list[list[int]]:
    """A viewed item, three that say nothing, and what the topic of the first buys."""
    random = np.random.default_rng(2)
    viewed, between = random.integers(0, VIEWED, num_sessions), random.integers(VIEWED, 60, (num_sessions, 3))
    return np.column_stack([viewed, between, 60 + viewed % NUM_TOPICS]).tolist()


def plan_shopping(folder: Path, backend: str, **training: Any) -> Run:
    knobs = {"window": 1, "dynamic_window": False, "epochs": 8, "position_decay": 0.5} | training
    return plan_training(folder, backend=backend, dim=16, sessions={"collapse_repeats": False}, **knobs)


def write_shopping(run: Run, event_types: tuple[str, ...] = ("purchase", "view")) -> None:
    sessions = shopping_sessions()
    counts = np.bincount(np.concatenate(sessions), minlength=64).tolist()
    rows = [
        {"session_id": f"s{s}", "user_idx": 0, "item_idx": items, "split": "train",
         "event_type": [VIEW] * (len(items) - 1) + [PURCHASE]}
        for s, items in enumerate(sessions)
    ]  # fmt: skip
    items = [{"item_idx": i, "item_id": f"i{i}", "num_events": n} for i, n in enumerate(counts)]
    tables = {"items": rows_of("items", items), "sessions": rows_of("sessions", rows)}
    write_stage(run, "sessions", tables, facts={"event_types": list(event_types)})


def read_vectors(run: Run) -> np.ndarray:
    return load_file(Path(run.lake, "models", run.stages["train"].id, "vectors.safetensors"))["input"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_session_buys_is_a_positive_of_all_its_items(tmp_path: Path, backend: str) -> None:
    found = {}
    for name, bought in (("plain", None), ("bought", "purchase")):
        run = plan_shopping(tmp_path, backend, conversion_context=bought)
        if bought is None:
            write_shopping(run)
        train(run)
        _, record = find_done(run.lake, run.stages["train"]) or (0, None)
        assert record is not None
        found[name] = record.counts["pairs"] / 8, neighbour_purity(read_vectors(run)[:VIEWED], NUM_TOPICS)
    # Windows of 1 in a session of 5: 8 pairs; the bought item is predicted by all four others instead of one.
    assert (found["plain"][0], found["bought"][0]) == (1500 * 8, 1500 * 11)
    assert found["plain"][1] < 0.5  # by chance .23
    assert found["bought"][1] > 0.95


def test_in_a_mixture_sessions_alone_know_what_is_bought(tmp_path: Path) -> None:
    """Walks and sessions in equal parts, trained end to end: walks tie a topic's items, sessions add what it buys."""
    runs = [
        plan_tiny(
            tmp_path,
            model={"embedding_dim": 16},
            sessions={"collapse_repeats": False},
            training=TRAINING | {"backend": "cpu", "corpus": {"walks": 1.0, "sessions": 1.0}, "epochs": 4, "window": 1,
                                 "dynamic_window": False, "conversion_context": bought},
            evaluate=None,
            run={"seed": 7},
        )
        for bought in (None, "purchase")
    ]  # fmt: skip
    write_shopping(runs[0])
    walks = topic_walks(1500)
    rows = [{"epoch": 0, "shard": 0, "start_idx": walk[0], "walk": walk} for walk in walks]
    write_stage(runs[0], "walks", {"walks": rows_of("walks", rows)})
    pairs = []
    for run in runs:
        train(run)
        _, record = find_done(run.lake, run.stages["train"]) or (0, None)
        assert record is not None
        assert set(record.inputs) >= {"walks", "sessions"}
        pairs.append(record.counts["pairs"] / 4)
    # A walk of 3 has 4 pairs, a session of 5 has 8, and 11 where its bought item is a positive of all.
    assert pairs == [1500 * (4 + 8), 1500 * (4 + 11)]
    vectors = read_vectors(runs[1])
    assert neighbour_purity(vectors[:VIEWED], NUM_TOPICS) > 0.95


def topic_walks(num_walks: int) -> list[list[int]]:
    """Three viewed items of one topic."""
    random, size = np.random.default_rng(4), VIEWED // NUM_TOPICS
    return [(random.choice(size, 3, replace=False) * NUM_TOPICS + w % NUM_TOPICS).tolist() for w in range(num_walks)]


def test_sessions_without_the_type_that_counts_as_bought_are_refused(tmp_path: Path) -> None:
    run = plan_shopping(tmp_path, "cpu", conversion_context="booking")
    write_shopping(run)
    message = r"conversion_context: no event is of type 'booking'; sessions hold 'purchase', 'view'\. Name one of them"
    with pytest.raises(DataError, match=message):
        train(run)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["skip_gram", "cbow"])
def test_negatives_of_the_own_market_tell_its_items_apart(backend: str, kind: str) -> None:
    """Sessions stay in one of 5 markets, mostly with one of its 4 styles: item i is of market i % 5, style i % 20."""
    random = np.random.default_rng(6)
    markets, styles = random.integers(0, 5, (2000, 1)), random.integers(0, 4, (2000, 1))
    style = np.where(random.random((2000, 8)) < 0.5, styles, random.integers(0, 4, (2000, 8)))
    corpus = random.integers(0, 12, (2000, 8)) * 20 + style * 5 + markets
    counts, found = np.bincount(corpus.ravel(), minlength=240), []
    for groups in (None, np.arange(240, dtype=np.int32) % 5):
        config = TrainingConfig(num_threads=1, num_group_negatives=5)
        objective = build_objective(ModelConfig(kind=kind), config, counts, 1, groups)
        found.append(closeness(fit(backend, objective, corpus.tolist())[0]))
    (style_before, market_before), (style_after, market_after) = found
    assert market_after < market_before - 0.02
    assert style_after - market_after > 1.02 * (style_before - market_before)


def closeness(vectors: np.ndarray) -> tuple[float, float]:
    """Mean cosine of items of one style, and of items of one market but of different styles."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    item = np.arange(len(unit))
    same_style = item[:, None] % 20 == item % 20
    same_market = (item[:, None] % 5 == item % 5) & ~same_style
    np.fill_diagonal(same_style, False)
    return float((unit @ unit.T)[same_style].mean()), float((unit @ unit.T)[same_market].mean())


def test_the_feature_of_negative_group_is_read_by_the_job(tmp_path: Path) -> None:
    feature = {"name": "market", "path": "x.csv", "key": "k", "column": "market"}
    run = plan_training(tmp_path, backend="cpu", epochs=1, negative_group="market", features=[feature])
    ids = list(range(6))
    items = [{"item_idx": i, "item_id": f"i{i}", "num_events": 2} for i in ids]
    rows = [{"session_id": f"s{s}", "item_idx": ids, "split": "train"} for s in range(64)]
    tables = {"items": rows_of("items", items, f_market=["a", "b"] * 3), "sessions": rows_of("sessions", rows)}
    write_stage(run, "sessions", tables)
    groups = []
    noise = objective_module.build_group_noise

    def spy(found: np.ndarray, probabilities: np.ndarray) -> Any:
        groups.append(found.tolist())
        return noise(found, probabilities)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objective_module, "build_group_noise", spy)
        train(run)
    assert groups == [[0, 1] * 3]
