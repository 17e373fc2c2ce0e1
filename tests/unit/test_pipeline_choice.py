"""`model.kind: auto`: what fits which data, when it is known, and that the rest of the config is kept to."""

import pytest
import yaml

from recspark.errors import ConfigError
from recspark.pipeline.choice import FEW_EVENTS, FULL_ITEMS, TOWER_USERS, Shape, find_shape, list_choices
from recspark.pipeline.open_run import open_finished_run, open_newest_run, settle_run
from recspark.pipeline.plan import select_stages
from tests.helpers.tiny_lake import write_stage

MANY = {"num_users": 500, "num_items": 90, "num_events": FEW_EVENTS}


def write_conf(folder, **sections):
    values = {
        "paths": {"lake": str(folder / "lake")},
        "source": {"kind": "files", "path": "events.csv", "format": "csv", "columns": {"ts": "ts"}},
        "split": {"kind": "time", "cut": "2026-02-01"},
        "model": {"kind": "auto"},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values | sections))
    return path


def see(run, num_events, users=TOWER_USERS, items=90):
    """Commits ingest and sessions with so much in them."""
    write_stage(run, "ingest", {}, inputs={"source": run.source})
    counts = {"num_users": users, "num_active_items": items, "events": {"train": num_events, "test": 9}}
    write_stage(run, "sessions", {}, counts=counts)


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """A function: config sections -> (config's path, the run before anything is built)."""
    monkeypatch.setenv("RECSPARK_RUN", '{"run_id": "r1", "source": {"fingerprint": "f", "kind": "files"}}')

    def open_(**sections):
        conf = write_conf(tmp_path, **sections)
        from recspark.pipeline.open_run import open_run

        return conf, open_run(conf)

    return open_


@pytest.mark.parametrize(
    ("shape", "kinds"),
    [
        (Shape(), ["skip_gram"]),
        (Shape(**MANY, has_order=True), ["light_gcn", "two_tower", "skip_gram"]),
        (Shape(TOWER_USERS, 9, FEW_EVENTS, True), ["two_tower", "light_gcn", "two_tower", "skip_gram"]),
        (Shape(FULL_ITEMS, 9, FEW_EVENTS, True), ["two_tower", "two_tower", "skip_gram"]),
        (Shape(**MANY), ["light_gcn", "two_tower", "skip_gram"]),
        (Shape(FULL_ITEMS, 1, FEW_EVENTS), ["two_tower", "skip_gram"]),
        (Shape(5, 4, FEW_EVENTS - 1), ["item_knn", "light_gcn", "two_tower", "skip_gram"]),
        (Shape(**MANY, item_features=("genre",)), ["two_tower", "light_gcn", "two_tower", "skip_gram"]),
    ],
)
def test_kinds_in_order_of_preference(shape, kinds):
    choices = list(list_choices(shape))
    assert [choice.kind for choice in choices] == kinds
    assert choices[0].settings[0] == f"model.kind={kinds[0]}"
    assert all(choice.why for choice in choices)


def test_features_are_named_to_the_tower_that_is_to_read_them():
    shape = Shape(**MANY, has_order=True, item_features=("brand", "genre"))
    assert next(list_choices(shape)).more == ("model.towers.item.features=[brand, genre]",)
    assert "brand, genre" in shape.describe()


def test_until_the_data_have_been_seen_only_their_stages_are_planned(opened):
    conf, run = opened()
    assert list(run.stages) == ["ingest", "sessions"]
    assert find_shape(run) is None
    assert settle_run(run, conf, [])[1] is None
    with pytest.raises(ConfigError, match="stage train: this config has none"):
        select_stages(run, "train", None)


def test_what_was_seen_decides_and_the_run_goes_on_under_its_id(opened):
    conf, run = opened()
    see(run, FEW_EVENTS)
    assert find_shape(run).describe() == f"{TOWER_USERS:,} users, 90 items, {FEW_EVENTS:,} train events in order"
    settled, choice = settle_run(run, conf, [])
    assert (settled.run_id, settled.config.model.kind, choice.kind) == ("r1", "two_tower", "two_tower")
    assert "an order" in choice.why
    assert list(settled.stages) == ["ingest", "sessions", "item_knn_graph", "train", "index", "evaluate"]
    assert {n: settled.stages[n].key for n in run.stages} == {n: s.key for n, s in run.stages.items()}


def test_what_the_config_does_not_allow_is_passed_over(opened):
    conf, run = opened(evaluate=None)  # a baseline of lists alone would have nothing to do
    see(run, FEW_EVENTS - 1)
    assert settle_run(run, conf, [])[1].kind == "two_tower"
    conf, run = opened()
    assert settle_run(run, conf, [])[1].kind == "item_knn"
    assert settle_run(run, conf, ["model.embedding_dim=16"])[0].config.model.embedding_dim == 16


def test_a_config_that_allows_none_is_told_why(opened):
    conf, run = opened(graph=None, training={"corpus": "walks", "warm_start": {"lake": "x", "model_id": "0" * 12}})
    see(run, FEW_EVENTS)
    with pytest.raises(ConfigError, match=r"model\.kind|training\."):
        settle_run(run, conf, [])


def test_queries_and_audits_find_the_runs_of_the_chosen_kind(opened, monkeypatch):
    conf, run = opened()
    see(run, FEW_EVENTS)
    monkeypatch.delenv("RECSPARK_RUN")
    assert open_newest_run(conf, [], ["train", "sessions"]).config.model.kind == "two_tower"
    with pytest.raises(Exception, match="no finished train for this config"):
        open_finished_run(conf, [], "train")
    see(run, FEW_EVENTS - 1)
    with pytest.raises(ConfigError, match=r"model\.kind item_knn ranks lists without vectors"):
        open_finished_run(conf, [], "train")


def test_of_an_edge_list_nothing_has_to_be_seen(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSPARK_RUN", '{"run_id": "r1", "source": {"fingerprint": "f", "kind": "edges"}}')
    edges = {"kind": "edges", "path": "e.csv", "format": "csv", "directed": False}
    from recspark.pipeline.open_run import open_run

    run = open_run(write_conf(tmp_path, source=edges, split={}))
    assert (run.config.model.kind, "walks" in run.stages, "train" in run.stages) == ("skip_gram", True, True)
