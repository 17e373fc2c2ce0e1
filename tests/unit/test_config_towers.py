"""Section `model.towers`: defaults by kind, what contradicts, what would have no effect, what a key hangs on."""

import pytest

from recspark.config import load_config, plan_run
from recspark.errors import ConfigError

SOURCE = {"fingerprint": "source"}
_FILES = "source: {kind: files, path: events.csv, format: csv, columns: {%s}}\n"
TIMED = _FILES % "ts: ts" + "split: {kind: time, cut: 2026-02-01}\n"
UNORDERED = _FILES % "split: split" + "split: {kind: given}\nsessions: {group_by: user}\n"


@pytest.fixture
def conf(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(TIMED + "model: {kind: two_tower}\nfeatures: [{name: genre, path: g.csv, key: id, column: g}]\n")
    return path


def problem_of(path, *overrides):
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    (problem,) = str(error.value).splitlines()[1:]
    return problem.strip()


def test_training_has_the_defaults_of_the_kind_where_nothing_is_given(conf):
    training = load_config(conf).training
    assert (dict(training.corpus), training.learning_rate) == ({"histories": 1.0}, 0.02)
    assert load_config(conf, ["training.learning_rate=0.1"]).training.learning_rate == 0.1
    assert load_config(conf, ["model.kind=skip_gram"]).training.learning_rate == 0.5


def test_no_graph_and_no_walks_are_built_for_towers(conf):
    assert not {"graph", "walks"} & set(plan_run(load_config(conf), SOURCE).stages)


def test_a_key_hangs_on_towers_only_where_they_are_read(conf):
    def key(*overrides):
        return plan_run(load_config(conf, overrides), SOURCE).stages["train"].key

    assert key() != key("model.towers.temperature=0.07")
    assert key() != key("training.tables.weight_decay=0.1")
    plain = plan_run(load_config(conf, ["model.kind=skip_gram"]), SOURCE).stages["train"].sections
    assert "towers" not in plain["model"]
    assert "tables" not in plain["training"]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["training.corpus=sessions"], "training.corpus: two_tower learns from whole histories; set it to histories"),
        (["training.backend=cpu"], "training.backend: the cpu kernel is skip-gram's; two_tower needs torch, on a CPU"),
        (["model.metric=auto", "split.valid={}"], "model.metric: two_tower learns for one; set it to cosine or ip"),
        (
            ["model.towers.item.features=[genres]"],
            "model.towers.item.features: no item feature is called 'genres' (section features); there: genre",
        ),
        (
            ["model.towers.item.features=[genre]", "features.0.kind=text"],
            "override 'features.0.kind=text': features is not a section",
        ),
        (["model.towers.item.id=false"], "model.towers.item: has neither id nor features, so all items are alike"),
        (
            ["model.towers.user.history.pooling=none"],
            "model.towers.user: has no history, id or features, so all users are alike; give one of them",
        ),
        (
            ["model.towers.user.history={pooling: attention, num_heads: 3}"],
            "model.towers.user.history.num_heads: must divide model.embedding_dim (64), got 3",
        ),
        (
            ["model.towers.targets=all"],
            "model.towers.targets: all would show a history its own targets; set it to next or rest",
        ),
        (
            ["model.towers.negatives={kind: sampled, in_batch: false, uniform: 0}"],
            "model.towers.negatives: sampled from nothing; set in_batch to true",
        ),
        (
            ["model.towers.negatives.queue=1000"],
            "model.towers.negatives.queue: adds to a sample, which kind auto need not be; set kind to sampled",
        ),
        (
            ["model.towers.negatives={hard_first_rank: 9, hard_last_rank: 9}"],
            "model.towers.negatives: hard_first_rank must be below hard_last_rank, got 9 and 9",
        ),
        (
            ["model.towers.item.neighbours={count: 9, num_walks: 4, walk_length: 2}"],
            "model.towers.item.neighbours: count must be at most num_walks x walk_length, which is 8, got 9",
        ),
        (
            ["model.kind=mf", "model.towers.item.neighbours.count=5"],
            "model.towers.item.neighbours.count: mf has a vector an item and nothing to join to it; set it to 0, or",
        ),
        (["model.towers.loss=ccl", "model.metric=ip"], "model.towers.loss: ccl is about cosines; set model.metric to"),
        (["training.window=7"], "training.window: model.kind two_tower makes no pairs of items; leave it out"),
        (["model.readout=sum"], "model.readout: model.kind two_tower has vectors of its own, nothing to read out"),
    ],
)  # fmt: skip
def test_what_towers_cannot_have_is_told(conf, overrides, problem):
    assert problem_of(conf, *overrides).startswith(problem)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            "{}",
            "model.towers.user.history.pooling: decay needs an order (source.columns.ts or position); set it to mean",
        ),
        (
            "{user: {history: {pooling: mean}}, targets: next}",
            "model.towers.targets: next needs an order (source.columns.ts or position); set it to rest",
        ),
    ],
)  # fmt: skip
def test_a_source_without_order_takes_sets_only(tmp_path, override, problem):
    path = tmp_path / "run.yaml"
    path.write_text(UNORDERED + f"model: {{kind: two_tower, towers: {override}}}\n")
    assert problem_of(path) == problem
    load_config(path, ["model.kind=light_gcn"])


def test_an_edge_list_has_no_users(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "source: {kind: edges, path: e.csv, format: csv, directed: false}\nmodel: {kind: mf}\nevaluate: null\n"
    )
    assert problem_of(path).startswith("model.kind: mf learns from users' histories, and an edge list has none")


def test_other_kinds_have_no_towers(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(TIMED + "model: {kind: skip_gram, towers: {temperature: 0.2}}\n")
    assert problem_of(path) == "model.towers: model.kind skip_gram has no towers; leave it out"
    path.write_text(TIMED + "training: {tables: {optimizer: adagrad}}\n")
    assert problem_of(path).startswith("training.tables.optimizer: model.kind skip_gram is embedding tables alone")
