"""Baselines in a config: what cannot be is said at once, and a key hangs on what decides the result."""

import pytest

from recspark.config import RunConfig, load_config, plan_run
from recspark.config.baselines import CLOSED_FORM_KINDS, LIST_KINDS
from recspark.errors import ConfigError, LakeError
from recspark.pipeline import launch
from recspark.pipeline.open_run import open_finished_run
from recspark.pipeline.plan import describe_states, find_states
from tests.helpers.configs import EDGES, SOURCE, keys_of, problems_of, write_minimal


@pytest.fixture
def conf(tmp_path):
    return write_minimal(tmp_path, f"paths: {{lake: {tmp_path / 'lake'}}}\n")


def stages_of(conf, *overrides):
    return list(plan_run(load_config(conf, overrides), SOURCE).stages)


@pytest.mark.parametrize(
    ("kind", "stages"),
    [
        ("rp3beta", ["ingest", "sessions", "item_knn_graph", "evaluate"]),
        ("ease", ["ingest", "sessions", "item_knn_graph", "evaluate"]),
        ("ppmi_svd", ["ingest", "sessions", "item_knn_graph", "train", "index", "evaluate"]),
        ("spectral", ["ingest", "sessions", "item_knn_graph", "train", "index", "evaluate"]),
    ],
)
def test_a_baseline_as_the_model_takes_only_the_stages_it_reads(conf, kind, stages):
    assert stages_of(conf, f"model.kind={kind}") == stages
    bare = [name for name in stages if name != "item_knn_graph"]
    assert stages_of(conf, f"model.kind={kind}", "baselines.names=[]") == bare
    assert stages_of(conf, f"model.kind={kind}", "baselines.names=[]", "graph=null", "walks=null") == bare


def test_item_knn_has_its_own_graph_beside_a_model_or_as_the_model(conf):
    assert "item_knn_graph" not in stages_of(conf, "baselines.names=[popularity]")
    assert "item_knn_graph" in stages_of(conf, "baselines.names=[popularity]", "model.kind=item_knn")


def test_an_edge_list_takes_spectral_alone(conf):
    assert stages_of(conf, *EDGES, "model.kind=spectral") == ["ingest", "train", "index"]
    assert stages_of(conf, *EDGES, "model.kind=spectral", "walks=null", "graph=null") == ["ingest", "train", "index"]
    for kind in (*LIST_KINDS, "ppmi_svd"):
        assert problems_of(conf, *EDGES, f"model.kind={kind}") == [
            f"model.kind: {kind} needs users with histories, and an edge list has none; baselines that take a graph: "
            "spectral"
        ]
    assert stages_of(conf, *EDGES, "baselines.names=[popularity]") == ["ingest", "walks", "train", "index"]


@pytest.mark.parametrize("kind", LIST_KINDS)
def test_a_model_of_lists_is_scored_exactly_or_not_at_all(conf, kind):
    assert problems_of(conf, f"model.kind={kind}", "evaluate=null") == [
        f"model.kind: {kind} only ranks lists, which evaluate scores; give it an evaluate section"
    ]
    assert problems_of(conf, f"model.kind={kind}", "evaluate.search=index") == [
        f"evaluate.search: {kind} has no vectors to index; set it to exact"
    ]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["baselines.names=[ease]", "source.synthetic.num_items=20001"], "baselines.ease.max_items: ease inverts a"),
        (["model.kind=ease", "source.synthetic.num_items=30000"], "more than 20,000; take ease out of baselines.names"),
        (["baselines.names=[ease, ease]"], "baselines.names: given twice: ease"),
        (["baselines.names=[svd]"], "baselines.names.0: must be 'popularity', 'item_knn', 'rp3beta'"),
        (["baselines.ease.history_decay=1.2"], "baselines.ease.history_decay: must be <= 1, got 1.2"),
        (["baselines.item_knn.history_items=0"], "baselines.item_knn.history_items: must be > 0, got 0"),
        (
            ["model.kind=item_knn", "model.history_decay=0.5", "model.history_items=2"],
            "model.history_decay, model.history_items: item_knn has no vectors to weigh; set "
            "baselines.item_knn.history_decay and history_items",
        ),
        (
            ["model.kind=popularity", "model.history_items=2"],
            "model.history_items: popularity has no vectors to weigh; leave it out",
        ),
        (["baselines.ease.l2=0"], "baselines.ease.l2: must be > 0, got 0"),
        (["baselines.rp3beta.item_alfa=1"], "unknown key; did you mean baselines.rp3beta.item_alpha?"),
    ],
)
def test_what_cannot_be_is_refused(conf, overrides, problem):
    assert problem in problems_of(conf, *overrides)[0]


@pytest.mark.parametrize(
    "overrides",
    [
        ["baselines.names=[ease]", "baselines.ease.max_items=20001"],
        ["baselines.names=[ease]", "vocabulary.min_item_events=2"],  # how many are left is not known yet
        ["evaluate=null", "baselines.names=[ease]"],
        [],
    ],
)
def test_a_large_catalogue_is_nobodys_business_but_that_of_ease(conf, overrides):
    load_config(conf, ["source.synthetic.num_items=20001", *overrides])


def test_weights_by_place_need_an_order():
    source = {"kind": "files", "path": "x", "format": "csv", "columns": {"split": "s"}}
    sections = {"source": source, "split": {"kind": "given"}, "sessions": {"group_by": "user"}}
    RunConfig.model_validate(sections)
    given = {"model": {"history_items": 3}, "baselines": {"item_knn": {"history_decay": 0.5}}}
    message = r"model.history_items, baselines.item_knn.history_decay: need an order \(source.columns.ts or position\)"
    with pytest.raises(ValueError, match=message):
        RunConfig.model_validate(sections | given)
    RunConfig.model_validate(sections | given | {"source": source | {"columns": {"split": "s", "position": "n"}}})


def test_recency_needs_times():
    source = {"kind": "files", "path": "x", "format": "csv", "columns": {"position": "n"}}
    sections = {"source": source, "split": {"kind": "leave_last_out"}, "sessions": {"group_by": "user"}}
    RunConfig.model_validate(sections)
    with pytest.raises(ValueError, match=r"baselines.popularity.half_life_days: needs source.columns.ts"):
        RunConfig.model_validate(sections | {"baselines": {"popularity": {"half_life_days": 7}}})


@pytest.mark.parametrize("kind", [*CLOSED_FORM_KINDS, *LIST_KINDS])
def test_knobs_of_training_and_walks_say_nothing_to_a_model_without_a_corpus(conf, kind):
    chosen = f"model.kind={kind}"
    plain = keys_of(conf, chosen)
    for override in ("walks.p=3", "training.num_processes=2", "graph.num_neighbours=3"):
        assert keys_of(conf, chosen, override) == plain
    conf.write_text(conf.read_text() + "training: {epochs: 9}\n")
    assert keys_of(conf, chosen) == plain


@pytest.mark.parametrize(
    ("kind", "override", "rebuilt"),
    [
        ("skip_gram", "baselines.rp3beta.beta=0.5", set()),  # not among the names
        ("skip_gram", "baselines.names=[popularity]", {"evaluate"}),
        ("rp3beta", "baselines.rp3beta.beta=0.5", {"evaluate"}),
        ("rp3beta", "baselines.ease.l2=5", set()),
        ("rp3beta", "model.kind=popularity", {"evaluate"}),
        ("rp3beta", "model.embedding_dim=9", set()),
        ("ease", "baselines.ease.max_items=9999", set()),
        ("popularity", "baselines.popularity.half_life_days=9", {"evaluate"}),
        ("skip_gram", "baselines.popularity.half_life_days=9", {"evaluate"}),
        ("ppmi_svd", "baselines.ppmi_svd.shift=5", {"train", "index", "evaluate"}),
        ("ppmi_svd", "baselines.ppmi_svd.popularity_term=5", set()),  # the model's own counts
        ("ppmi_svd", "baselines.ppmi_svd.history_items=5", set()),
        ("ppmi_svd", "model.history_items=5", {"train", "index", "evaluate"}),
        ("skip_gram", "model.history_decay=0.5", {"train", "index", "evaluate"}),
        ("skip_gram", "baselines.item_knn.history_decay=0.5", {"evaluate"}),
        ("item_knn", "baselines.item_knn.history_items=1", {"evaluate"}),
        ("rp3beta", "baselines.rp3beta.history_decay=0.5", {"evaluate"}),
        ("ppmi_svd", "model.popularity_term=5", {"train", "index", "evaluate"}),
        ("ppmi_svd", "baselines.spectral.skip=1", set()),
        ("spectral", "baselines.spectral.skip=1", {"train", "index", "evaluate"}),
        ("rp3beta", "run.seed=5", {"ingest", "sessions", "item_knn_graph", "evaluate"}),  # by the generator's seed
    ],
)
def test_a_key_hangs_on_the_knobs_of_what_is_built(conf, kind, override, rebuilt):
    before, after = (keys_of(conf, f"model.kind={kind}", *more) for more in ([], [override]))
    assert {name for name in before if before[name] != after.get(name, before[name])} == rebuilt


def test_vector_baselines_beside_a_list_hang_on_their_length(conf):
    beside = ["model.kind=rp3beta", "baselines.names=[ppmi_svd]"]
    for override in ("model.embedding_dim=9", "baselines.ppmi_svd.metric=ip", "baselines.ppmi_svd.popularity_term=0"):
        before, after = keys_of(conf, *beside), keys_of(conf, *beside, override)
        assert {name for name in before if before[name] != after[name]} == {"evaluate"}


def test_a_run_says_what_it_leaves_out(conf, monkeypatch, capsys):
    run = plan_run(load_config(conf, ["model.kind=rp3beta"]), SOURCE)
    launch.run_all(run, [], [])
    said = capsys.readouterr().err
    assert "not applicable: rp3beta ranks lists without vectors" in said
    assert "not needed: rp3beta learns from users' histories" in said
    assert "not needed: rp3beta learns from no walks" in said


def test_a_dry_run_of_a_model_without_vectors(conf):
    run = plan_run(load_config(conf, ["model.kind=rp3beta"]), SOURCE)
    said = describe_states(run, find_states(run, list(run.stages)))
    assert "to build: sessions, item_knn_graph has to run first" in said


def test_a_query_of_a_model_without_vectors_is_told_so(conf):
    with pytest.raises(
        ConfigError, match=r"no stage train: model.kind ease ranks lists without vectors, in table recomm"
    ):
        open_finished_run(conf, ["model.kind=ease"], "train")
    with pytest.raises(LakeError, match="no finished train for this config"):
        open_finished_run(conf, ["model.kind=spectral"], "train")
