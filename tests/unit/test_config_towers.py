"""Section `model.towers`: defaults by kind, what contradicts, what would have no effect, what a key hangs on."""

from typing import get_args

import pytest

from recspark.config import load_config, plan_run
from recspark.config.towers import UserTowerConfig
from recspark.errors import ConfigError
from recspark.evaluate.time_features import NAMES

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


def test_time_features_are_those_that_towers_can_read(conf):
    (names,) = get_args(UserTowerConfig.model_fields["time_features"].annotation)[:1]
    assert get_args(names) == NAMES
    assert load_config(conf, [f"model.towers.user.time_features=[{', '.join(NAMES)}]"])


def test_event_weights_need_some_that_differ(conf):
    for given in ("source.columns.weight=w", "clean.event_weights={buy: 3}"):
        assert load_config(conf, ["model.towers.user.history.event_weights=true", given])


def test_explicit_negatives_have_a_stage_whose_key_hangs_on_what_it_reads(conf):
    given = ["source.columns.event_type=t", "clean.event_types=[click]"]

    def plan(**explicit):
        knobs = [f"model.towers.negatives.explicit.{name}={value}" for name, value in explicit.items()]
        return plan_run(load_config(conf, [*given, *knobs]), SOURCE).stages

    plain, with_skips = plan(), plan(event_types="[skip]")
    assert "negatives" not in plain
    assert set(with_skips) - set(plain) == {"negatives"}
    assert [name for name in with_skips if name in ("sessions", "negatives", "train")] == [
        "sessions",
        "negatives",
        "train",
    ]
    assert with_skips["sessions"].key == plain["sessions"].key  # histories do not hang on the model
    assert set(with_skips["negatives"].upstream) == {"ingest", "sessions"}
    assert with_skips["train"].upstream["negatives"] == with_skips["negatives"].key
    assert plan(event_types="[skip]", num=9)["negatives"].key == with_skips["negatives"].key
    assert plan(event_types="[skip]", num=9)["train"].key != with_skips["train"].key
    assert plan(event_types="[skip, hide]")["negatives"].key != with_skips["negatives"].key
    skip_gram = plan_run(load_config(conf, [*given, "model.kind=skip_gram"]), SOURCE)
    assert "negatives" not in skip_gram.stages


def test_a_key_hangs_on_towers_only_where_they_are_read(conf):
    def key(*overrides):
        return plan_run(load_config(conf, overrides), SOURCE).stages["train"].key

    assert key() != key("model.towers.temperature=0.07")
    assert key() != key("training.tables.weight_decay=0.1")
    head = "model.towers.ranking.kind=target_attention"
    assert key() != key(head) != key(head, "model.towers.ranking.num_negatives=7")
    plain = plan_run(load_config(conf, ["model.kind=skip_gram"]), SOURCE).stages["train"].sections
    assert "towers" not in plain["model"]
    assert "tables" not in plain["training"]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["training.corpus=sessions"], "training.corpus: two_tower learns from whole histories; set it to histories"),
        (["training.backend=cpu"], "training.backend: the cpu kernel is skip-gram's; two_tower needs torch, on a CPU"),
        (["model.metric=auto", "split.valid={}"], "model.metric: two_tower learns for cosine or ip; set it to one"),
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
            ["model.towers.user.history.event_weights=true"],
            "model.towers.user.history.event_weights: all events weigh 1; give source.columns.weight or clean.event_we",
        ),
        (
            ["model.towers.user={id: true, history: {event_weights: true, pooling: none}}", "source.columns.weight=w"],
            "model.towers.user.history.event_weights: no history is pooled; leave it out",
        ),
        (
            ["model.towers.user.time_features=[hour_of_day]", "model.towers.targets=rest"],
            "model.towers.user.time_features: needs targets next and a history.pooling; rows of whole users have no ti",
        ),
        (
            ["model.towers.user.time_features=[hour_of_day]", "source.columns={position: p, split: s}",
             "split={kind: given}", "sessions.group_by=user"],
            "model.towers.user.time_features: needs times (source.columns.ts)",
        ),
        (
            ["model.kind=light_gcn", "model.towers.user.time_features=[hour_of_day]"],
            "model.towers.user: model.kind light_gcn has a vector a user and one an item and reads nothing else, as",
        ),
        (
            ["model.towers.user.time_features=[hour_of_day, hour_of_day]"],
            "model.towers.user.time_features: names one twice (hour_of_day, hour_of_day)",
        ),
        (
            ["model.towers.user.time_features=[hour]"],
            "model.towers.user.time_features.0:",
        ),
        (
            ["recommend.at=2026-02-01", "source.columns={position: p, split: s}", "split={kind: given}",
             "sessions.group_by=user"],
            "recommend.at: needs times (source.columns.ts)",
        ),
        (
            ["model.kind=mf", "model.towers.user.history.event_weights=true", "source.columns.weight=w"],
            "model.towers.user: model.kind mf has a vector a user and one an item and reads nothing else",
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
            ["model.towers.negatives={in_batch: false, uniform: 0}"],
            "model.towers.negatives: sampled from nothing; set in_batch to true",
        ),
        (
            ["model.towers.negatives={kind: sampled, in_batch: false, queue: 100}"],
            "model.towers.negatives.queue: keeps the batch's targets, which in_batch: false leaves out",
        ),
        (
            ["model.towers.item.features=[genre, genre]"],
            "model.towers.item.features: names one twice (genre, genre)",
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
            "model.towers.item: model.kind mf has a vector a user and one an item and reads nothing else, as two_tower",
        ),
        (
            ["model.kind=two_tower", "model.towers={start: random, propagation: {num_layers: 2}}"],
            "model.towers.start, model.towers.propagation: goes with model.kind light_gcn or mf; leave them out",
        ),
        (["model.towers.loss=ccl", "model.metric=ip"], "model.towers.loss: ccl is about cosines; set model.metric to"),
        (
            ["model.towers.negatives.explicit.event_types=[skip]"],
            "model.towers.negatives.explicit.event_types: needs source.columns.event_type; without it each event is a "
            "'event'",
        ),
        (
            ["model.towers.negatives.explicit.event_types=[skip, view]", "source.columns.event_type=t",
             "clean.event_weights={view: 0}"],
            "model.towers.negatives.explicit.event_types: skip would be positives too; leave them out of histories, "
            "such as by clean.event_weights {skip: 0}",
        ),
        (
            ["model.towers.negatives.explicit.event_types=[]"],
            "model.towers.negatives.explicit.event_types:",
        ),
        (
            ["model.towers.ranking={kind: target_attention, candidates: 9}"],
            "model.towers.ranking: num_negatives must be at most candidates (9), got 20",
        ),
        (
            ["model.kind=light_gcn", "model.towers.ranking.kind=target_attention"],
            "model.towers.ranking: model.kind light_gcn has no histories that a head could rank by; leave it out",
        ),
        (
            ["model.towers.ranking={dropout: 0.2, joint: 1}"],
            "model.towers.ranking.dropout, model.towers.ranking.joint: goes with model.towers.ranking.kind: target_",
        ),
        (
            ["model.towers={ranking: {kind: target_attention}, user: {id: true, history: {pooling: none}}}"],
            "model.towers.ranking.kind: target_attention needs a history; set model.towers.user.history.pooling to",
        ),
        (
            ["model.towers={ranking: {kind: target_attention}, user: {history: {pooling: multi_interest}}}"],
            "model.towers.ranking.kind: target_attention takes one vector a user, model.towers.user.history.pooling",
        ),
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
        (
            "{user: {history: {pooling: mean}}, ranking: {kind: target_attention}}",
            "model.towers.ranking.positions: needs an order (source.columns.ts or position); set it to false",
        ),
    ],
)  # fmt: skip
def test_a_source_without_order_takes_sets_only(tmp_path, override, problem):
    path = tmp_path / "run.yaml"
    path.write_text(UNORDERED + f"model: {{kind: two_tower, towers: {override}}}\n")
    assert problem_of(path) == problem
    load_config(path, ["model.kind=light_gcn"])


def test_a_head_is_switched_off_beside_the_file_that_describes_it(conf):
    text = conf.read_text().replace("two_tower", "two_tower, towers: {ranking: {kind: target_attention, dropout: 0.2}}")
    plain = plan_run(load_config(conf), SOURCE).stages["train"].key
    conf.write_text(text)
    for off in ("model.towers.ranking.kind=none", "model.kind=mf"):
        config = load_config(conf, [off])
        assert not config.model.has_ranking_head
    config = load_config(conf, ["model.towers.ranking.kind=none"])
    assert plan_run(config, SOURCE).stages["train"].key == plain


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
