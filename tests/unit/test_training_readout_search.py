"""The readout chosen on the validation slice: brute force as oracle, nothing seen of the test part, exact ties."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recspark.config import Run
from recspark.config.schema import ModelConfig
from recspark.errors import DataError
from recspark.evaluate.top_k import top_k
from recspark.lake.arrow import TableAt, find_done, find_table, read_table
from recspark.pipeline.evaluate_stage import evaluate
from recspark.training.job import train
from recspark.training.readout import ReadoutSpec
from recspark.training.readout_search import ReadoutChoice, choose_readout, list_candidates, plan_search
from recspark.training.tables import SkipGramTables
from tests.helpers.tiny_lake import Parts, build_histories, plan_tiny, write_sessions, write_stage
from tests.helpers.training_lake import TRAINING, topic_sequences

NUM_ITEMS, DIM, NUM_USERS, K = 30, 6, 40, 4
AUTOS = dict.fromkeys(("readout", "metric", "centred", "history_decay", "popularity_term"), "auto")
SEARCH = {"metric": f"recall@{K}", "popularity_terms": [0.0, 0.1, 0.5], "history_decays": [1.0, 0.4]}


def random_tables(seed: int = 0) -> SkipGramTables:
    """Vectors of different lengths, off centre; the last two items are untrained."""
    random = np.random.default_rng(seed)
    first, second = (random.normal(0.3, 1, (NUM_ITEMS, DIM)) * random.uniform(0.2, 3, (NUM_ITEMS, 1)) for _ in range(2))
    return SkipGramTables(first.astype(np.float32), second.astype(np.float32), np.arange(NUM_ITEMS) < NUM_ITEMS - 2)


def random_users(seed: int = 0) -> list[Parts]:
    """Users with train, validation, context and test items; some lack one or the other, some hold untrained items."""
    random = np.random.default_rng(seed)
    parts = [
        [random.integers(0, NUM_ITEMS, random.integers(0, 6)).tolist() for _ in range(4)] for _ in range(NUM_USERS)
    ]
    return [tuple(p) for p in parts]  # type: ignore[misc]


def num_events() -> np.ndarray:
    return np.arange(NUM_ITEMS, 0, -1).astype(np.int64) ** 2


def histories_of(folder: Path, users: list[Parts]) -> TableAt:
    run = plan_tiny(folder)
    write_stage(run, "sessions", {"user_histories": build_histories(users)})
    return find_table(run.lake, run.stages["sessions"], "user_histories")


def choose(
    folder: Path, users: list[Parts], tables: SkipGramTables | None = None, items: int | None = None, **search: Any
) -> ReadoutChoice:
    config = ModelConfig.model_validate(AUTOS | {"history_items": items, "readout_search": SEARCH | search})
    return choose_readout(tables or random_tables(), histories_of(folder, users), num_events(), config)


def brute_force(tables: SkipGramTables, users: list[Parts], spec: ReadoutSpec) -> float:
    """recall@K of a spec by loops over users, in float64."""
    known = np.flatnonzero(tables.is_trained)

    def centred(table: np.ndarray) -> np.ndarray:
        table = table.astype(np.float64)
        return table - table[known].mean(0) if spec.centred else table

    both = {"input": tables.input, "output": tables.output, "sum": tables.input + tables.output}
    queries = centred(both["input" if spec.readout == "input_output" else spec.readout])
    items = centred(both["output" if spec.readout == "input_output" else spec.readout])
    logs = np.log(num_events()) - np.log(num_events())[known].mean()
    values = []
    for train_items, valid_items, _, _ in users:
        relevant = set(valid_items) - set(train_items)
        if not train_items or not relevant:
            continue
        history = [i for i in train_items if i in known]
        is_l2 = spec.metric == "l2"
        newest_first = [queries[i] / (1 if is_l2 else np.linalg.norm(queries[i])) for i in history[::-1]]
        newest_first = newest_first[: spec.history_items]
        weights = [spec.history_decay**place for place in range(len(newest_first))]
        user = np.average(newest_first, axis=0, weights=weights) if history else np.zeros(DIM)
        scores = {}
        for i in set(known.tolist()) - set(train_items):
            similarity = -np.square(user - items[i]).sum() if is_l2 else user @ items[i]
            if spec.metric == "cosine":
                similarity /= np.linalg.norm(items[i]) * (np.linalg.norm(user) or 1)
            scores[i] = similarity + spec.popularity_term * logs[i]
        best = sorted(scores, key=lambda i: (-scores[i], i))[:K]
        values.append(len(relevant & set(best)) / len(relevant))
    return float(np.mean(values))


@pytest.mark.parametrize("items", [None, 2])
def test_every_combination_is_scored_as_by_hand_and_the_best_one_chosen(tmp_path, items):
    users, tables = random_users(), random_tables()
    choice = choose(tmp_path, users, tables, items)
    assert len(choice.tried) == 4 * 2 * 2 * 2 * 3
    assert {spec.history_items for spec in choice.tried} == {items}
    for spec, value in choice.tried.items():
        assert value == pytest.approx(brute_force(tables, users, spec), abs=1e-9), spec
    assert len(set(choice.tried.values())) > 10  # they do differ
    assert choice.tried[choice.spec] == max(choice.tried.values())
    assert choice.num_users == sum(bool(t) and bool(set(v) - set(t)) for t, v, _, _ in users)


def test_distances_are_scored_as_by_hand_too(tmp_path):
    users, tables = random_users(), random_tables()
    config = ModelConfig.model_validate(AUTOS | {"metric": "l2", "readout_search": SEARCH})
    choice = choose_readout(tables, histories_of(tmp_path, users), num_events(), config)
    assert {spec.metric for spec in choice.tried} == {"l2"}
    for spec, value in choice.tried.items():
        assert value == pytest.approx(brute_force(tables, users, spec), abs=1e-9), spec


def test_what_lies_behind_the_validation_items_decides_nothing(tmp_path):
    """Test and context items that would make another readout look best change no value at all."""
    users = random_users()
    plain = choose(tmp_path / "plain", users)
    worst = min(plain.tried, key=lambda spec: plain.tried[spec])
    assert worst != plain.spec
    poisoned = [(t, v, [0, 1, 2, 3] * 5, [i for i in range(NUM_ITEMS) if i not in t]) for t, v, _, _ in users]
    found = choose(tmp_path / "poisoned", poisoned)
    assert found.tried == plain.tried
    assert found.spec == plain.spec
    bare = choose(tmp_path / "bare", [(t, v, [], []) for t, v, _, _ in users])
    assert bare.tried == plain.tried


def test_validation_items_do_decide(tmp_path):
    """The test above would pass for a choice that looks at nothing."""
    users = random_users()
    other = [(t, [(i + 7) % NUM_ITEMS for i in v], c, s) for t, v, c, s in users]
    assert choose(tmp_path / "a", users).tried != choose(tmp_path / "b", other).tried


def test_of_equals_the_first_is_taken(tmp_path):
    same = np.ones((NUM_ITEMS, DIM), np.float32)
    tables = SkipGramTables(same, same, np.ones(NUM_ITEMS, bool))
    choice = choose(tmp_path, random_users(), tables, popularity_terms=[0.1, 0.5])
    assert choice.spec == ReadoutSpec("input", "cosine", False, 0.1)
    assert len(set(choice.tried.values())) == 1


def test_only_what_is_auto_is_tried():
    tried = list_candidates(ModelConfig.model_validate({"metric": "ip", "readout": "sum", "popularity_term": "auto"}))
    assert [(s.readout, s.metric, s.centred) for s in tried] == [("sum", "ip", False)] * 6
    assert [s.popularity_term for s in tried] == [0.0, 0.02, 0.05, 0.1, 0.2, 0.4]
    assert {(s.history_decay, s.history_items) for s in tried} == {(1.0, None)}
    tried = list_candidates(ModelConfig.model_validate({"history_decay": "auto", "history_items": 5}))
    assert [s.history_decay for s in tried] == [1.0, 0.9, 0.8, 0.7, 0.5, 0.3]
    assert {(s.readout, s.popularity_term, s.history_items) for s in tried} == {("input", 0.0, 5)}
    search = {"readouts": ["input_output", "input"], "popularity_terms": [0.0]}
    tried = list_candidates(ModelConfig.model_validate({"readout": "auto", "readout_search": search}))
    assert tried == [ReadoutSpec(name, "cosine", False, 0.0) for name in ("input_output", "input")]


def test_a_sample_of_users_is_the_same_every_time(tmp_path):
    users = random_users()
    first, second = (choose(tmp_path / name, users, max_users=7) for name in ("a", "b"))
    assert first == second
    assert first.num_users == 7


def test_a_search_never_scores_more_than_it_may():
    sizes = itertools.product((1, 40, 5_000), (30, 1_000_000), (1, 6, 96, 576), (10**6, 10**9, 2 * 10**11))
    for num_users, num_items, num_candidates, most in sizes:
        rounds = plan_search(num_users, num_items, num_candidates, most)
        scores = num_items * sum(r.num_users * r.num_candidates for r in rounds)
        fewest = num_items * sum(r.num_candidates for r in rounds)  # one user each
        assert scores <= max(most, fewest), (num_users, num_items, num_candidates, most)
        assert rounds[0].num_candidates == num_candidates
        assert all(1 <= r.num_users <= num_users and r.num_candidates >= 1 for r in rounds)
        if num_users * num_items * num_candidates <= most:
            assert rounds == [(num_candidates, num_users)]
        else:
            assert scores > most / 2 or fewest > most / 2  # what it may is used


def test_a_large_search_goes_from_coarse_to_fine():
    # 200,000 users x combinations: half of it for all, the rest for the best.
    assert plan_search(5_000, 1_000_000, 576, 2 * 10**11) == [(576, 173), (20, 5_000)]
    assert plan_search(5_000, 1_000_000, 6, 2 * 10**10) == [(6, 3_333)]


@pytest.fixture
def scored(monkeypatch):
    """How many scores were ranked, list by list."""
    counts = []

    def count(scores, k):
        counts.append(scores.size)
        return top_k(scores, k)

    monkeypatch.setattr("recspark.training.readout_scores.top_k", count)
    return counts


def test_beyond_the_bound_the_best_of_few_users_are_compared_on_many(tmp_path, scored, capsys):
    users = random_users()
    whole = choose(tmp_path / "whole", users)
    assert sum(scored) == whole.num_users * NUM_ITEMS * 96
    assert "max_scores" not in capsys.readouterr().err
    scored.clear()
    bound = NUM_ITEMS * 700
    choice = choose(tmp_path / "cut", users, max_scores=bound)
    assert choice.rounds == [(96, 3), (12, whole.num_users)]
    assert sum(scored) == NUM_ITEMS * (96 * 3 + 12 * whole.num_users) <= bound
    said = capsys.readouterr().err
    assert f"96 readouts x {whole.num_users} users x 30 items are more than model.readout_search.max_scores" in said
    assert f"96 of them on 3, then the best 12 of them on {whole.num_users} users, chosen by hash" in said
    # Those of the last round have their exact values, and the best of them is taken.
    finalists = [spec for spec, num in choice.users_of.items() if num == whole.num_users]
    assert len(finalists) == 12
    assert {spec: choice.tried[spec] for spec in finalists} == {spec: whole.tried[spec] for spec in finalists}
    assert choice.spec == max(finalists, key=lambda spec: whole.tried[spec])
    facts = choice.to_facts()
    assert (facts["users"], facts["value"]) == (whole.num_users, whole.tried[choice.spec])
    assert sorted({r["users"] for r in facts["results"]}) == [3, whole.num_users]


def test_seen_items_may_count(tmp_path):
    users = [([0, 1], [1], [], [])] * 3
    with pytest.raises(
        DataError, match=r"is chosen on the validation slice, but .*nothing relevant .*set split.valid to"
    ):
        choose(tmp_path / "masked", users)
    assert choose(tmp_path / "open", users, mask_seen=False).num_users == 3


def test_a_slice_without_users_is_refused_with_its_name(tmp_path):
    users = [(t, [], [], s) for t, _, _, s in random_users()]
    with pytest.raises(DataError, match=r"of 40 users 40 have no valid events.*set split.valid to another slice"):
        choose(tmp_path, users)


def plan_auto(folder: Path) -> Run:
    """A run that leaves all to the validation slice, and is evaluated there too."""
    return plan_tiny(
        folder,
        model={"embedding_dim": 8, **AUTOS, "readout_search": SEARCH},
        training=TRAINING | {"corpus": "histories", "backend": "cpu"},
        split={"kind": "time", "cut": "2026-02-01", "valid": {"kind": "last_k"}},
        graph=None,
        walks=None,
        evaluate={"split": "valid", "ks": [K]},
        baselines={"names": ["popularity"]},
        run={"seed": 7},
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Run, list[dict[str, Any]]]:
    """A finished run over users who stay inside a topic, and what it logged."""
    run = plan_auto(tmp_path_factory.mktemp("auto"))
    users: list[Parts] = []
    for items in topic_sequences(300, 40, 0):
        cut = max(1, len(items) - 2)
        users.append((items[:cut].tolist(), items[cut:].tolist(), [], [39]))
    events = np.bincount(np.concatenate([u[0] for u in users]), minlength=40)
    write_sessions(run, events.tolist(), users)
    with pytest.MonkeyPatch.context() as patch:
        said: list[dict[str, Any]] = []
        patch.setattr(
            "recspark.training.readout_search.log", lambda _, text, **facts: said.append({"text": text, **facts})
        )
        train(run)
    return run, said


def test_the_evaluation_scores_what_was_chosen(trained):
    """The value in the facts is what the evaluation stage finds with the embeddings written, on the same users."""
    run, _ = trained
    evaluate(run)
    _, record = find_done(run.lake, run.stages["evaluate"])
    _, of_train = find_done(run.lake, run.stages["train"])
    search = of_train.facts["readout_search"]
    assert record.facts["metrics"]["skip_gram"][f"recall@{K}"] == pytest.approx(search["value"], abs=1e-9)
    assert search["users"] == record.counts["users_eligible"]
    assert search["value"] > 2 * record.facts["metrics"]["popularity"][f"recall@{K}"]


def test_the_record_says_what_was_chosen_from_what(trained):
    run, said = trained
    _, record = find_done(run.lake, run.stages["train"])
    search = record.facts["readout_search"]
    spec = ReadoutSpec.from_facts(record.facts)
    assert search["candidates"] == len(search["results"]) == 96
    assert {r.pop("users") for r in search["results"]} == {search["users"]}
    assert search["rounds"] == [{"num_candidates": 96, "num_users": search["users"]}]
    values = {json.dumps(r, sort_keys=True): r.pop("value") for r in search["results"]}
    assert max(values.values()) == search["value"]
    assert ReadoutSpec(**search["results"][list(values.values()).index(search["value"])]) == spec
    assert said[-1]["text"].startswith(f"chosen: readout {spec.readout}, metric {spec.metric}, centred ")
    assert said[-1]["text"].endswith(f"best of 96 on {search['users']} users of the validation slice")
    assert [len(line) for line in said[:-1]] == [1 + 3] * 32  # a line a table of popularity terms


def test_a_crash_after_the_choice_goes_on_with_it(trained, tmp_path, monkeypatch):
    run, _ = trained
    copy = plan_auto(tmp_path)
    shutil.copytree(run.lake, copy.lake)
    shutil.rmtree(Path(copy.lake, "tables", "item_embeddings"))
    assert find_done(copy.lake, copy.stages["train"]) is None
    monkeypatch.setattr("recspark.training.readout_search.choose_readout", None)  # asked again, it would fail
    train(copy)
    records = [find_done(r.lake, r.stages["train"])[1] for r in (run, copy)]
    assert records[0].facts == records[1].facts
    for table in ("item_embeddings", "user_embeddings"):
        before, after = (read_table(find_table(r.lake, r.stages["train"], table)).sort_by("idx") for r in (run, copy))
        assert before.equals(after)
