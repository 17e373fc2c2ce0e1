"""Sections `model` and `training` in a config: what cannot be is said at once, what goes together loads."""

from pathlib import Path

import pytest

from recspark.config import load_config, plan_run
from tests.helpers.configs import EDGES, SOURCE, keys_of, problems_of, write_minimal


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    return write_minimal(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            ["model.readout=auto", "model.popularity_term=auto"],
            "model.readout, model.popularity_term: auto is chosen on a validation slice; set split.valid",
        ),
        (
            ["model.history_decay=auto", "split.valid={}"],
            "model.history_decay: auto is chosen by what comes after a history, and split.valid.kind user_share holds",
        ),
        (
            ["training.warm_start.model_id=0123456789ab", "graph=null", "walks=null", "training.corpus=sessions"],
            "training.warm_start.neighbours: needs a graph section; set it to false",
        ),
        (
            ["training.warm_start={model_id: 0123456789ab, features: [brand]}"],
            "training.warm_start.features: no item feature is called brand; there are []",
        ),
        (
            [
                "features=[{name: price, path: x, key: k, column: c, kind: numeric}]",
                "training.warm_start={model_id: 0123456789ab, features: [price]}",
            ],
            "training.warm_start.features: price is numeric; it takes categorical and multi ones",
        ),
        (["walks=null", "training.corpus={walks: 1, sessions: 1}"], "training.corpus: walks needs a walks section"),
    ],
)
def test_what_training_lacks_is_told_before_anything_runs(conf, overrides, problem):
    assert problems_of(conf, *overrides)[0].startswith(problem)


@pytest.mark.parametrize("split", ["{kind: time, cut: '2026-01-01', valid: {kind: last_k}}", "{kind: given}"])
def test_auto_goes_with_a_validation_slice(tmp_path, split):
    path = tmp_path / "run.yaml"
    columns = "{user_id: u, item_id: i, ts: t, split: s}"
    path.write_text(f"source: {{kind: files, path: x, format: csv, columns: {columns}}}\nsplit: {split}\n")
    autos = ["readout", "metric", "centred", "history_decay", "popularity_term"]
    assert list(load_config(path, [f"model.{name}=auto" for name in autos]).model.autos) == autos


def test_an_edge_list_has_no_users_to_choose_by(conf):
    for override, problem in (
        ("model.history_decay=0.5", "model.history_decay: an edge list has no users, so no histories; leave it out"),
        ("model.metric=auto", "model.metric: auto is chosen by how users are served, and an edge list has no users"),
        ("training.corpus={sessions: 1, histories: 2}", "training.corpus: an edge list has no sessions and histories"),
    ):
        assert problems_of(conf, *EDGES, override)[0].startswith(problem)


@pytest.mark.parametrize(
    ("given", "weights"),
    [
        ("sessions", {"sessions": 1}),
        ("{walks: 3}", {"walks": 1}),
        ("{walks: 1, histories: .5}", {"walks": 1, "histories": 0.5}),
    ],
)
def test_a_corpus_is_a_name_or_weights(conf, given, weights):
    assert load_config(conf, [f"training.corpus={given}"]).training.corpus == weights


def test_a_warm_start_hangs_on_the_model_not_on_where_it_lies(conf):
    start = "training.warm_start.model_id=0123456789ab"
    plain, here = keys_of(conf)["train"], keys_of(conf, start)["train"]
    assert plain != here
    assert keys_of(conf, start, "training.warm_start.lake=elsewhere")["train"] == here
    assert keys_of(conf, start.replace("9ab", "9ac"))["train"] != here


def test_training_reads_the_graph_only_to_start_from_neighbours(conf):
    start = "training.warm_start={model_id: 0123456789ab, neighbours: %s}"
    for neighbours, upstream in (("true", {"sessions", "walks", "graph"}), ("false", {"sessions", "walks"})):
        run = plan_run(load_config(conf, [start % neighbours]), SOURCE)
        assert set(run.stages["train"].upstream) == upstream


@pytest.mark.parametrize("override", ["state=bfloat16", "weight_decay=0.1", "slowmo={}"])
def test_knobs_of_towers_are_refused_where_the_model_has_none(conf, override):
    (problem,) = problems_of(conf, f"training.dense.{override}")
    assert problem.startswith(
        f"training.dense.{override.split('=')[0]}: model.kind skip_gram is embedding tables alone"
    )


@pytest.mark.parametrize(
    ("section", "overrides", "problem"),
    [
        (
            "model: {kind: spectral}",
            ["training.epochs=9", "training.corpus=sessions"],
            "training.corpus, training.epochs: model.kind spectral is in closed form and reads no training settings; "
            "leave them out",
        ),
        (
            "model: {kind: rp3beta}\ntraining: {window: session}",
            [],
            "training.window: model.kind rp3beta only ranks lists and reads no training settings; leave it out",
        ),
        (
            "",
            ["model={kind: ease, readout: sum, metric: ip}"],
            "model.readout, model.metric: model.kind ease has no vectors; leave them out",
        ),
        (
            "",
            ["model.kind=spectral", "model.readout=auto", "split.valid={}"],
            "model.readout: model.kind spectral has one vector an item to read out; leave it out",
        ),
        (
            "",
            ["model.kind=ppmi_svd", "model.objective=hierarchical_softmax"],
            "model.objective: model.kind ppmi_svd is in closed form and has one of its own; leave it out",
        ),
        (
            "training: {num_negatives: 9, shared_negatives: 8}\nmodel: {objective: hierarchical_softmax}",
            ["training.noise_exponent=0.75"],
            "training.num_negatives, training.shared_negatives, training.noise_exponent: hierarchical_softmax draws no "
            "negatives; leave them out",
        ),
        (
            "",
            ["training.num_group_negatives=3"],
            "training.num_group_negatives: goes with training.negative_group, which is not given; leave it out",
        ),
        (
            "",
            ["training={window: session, dynamic_window: false}"],
            "training.dynamic_window: window session holds the whole sequence, nothing is drawn; leave it out",
        ),
        (
            "model: {readout_search: {max_users: 9, metric: ndcg@5, readouts: [sum]}}",
            [],
            "model.readout_search.metric, model.readout_search.max_users, model.readout_search.readouts: goes with "
            "auto in model.readout, model.metric, model.centred, model.history_decay or model.popularity_term, and "
            "none is; "
            "leave them out",
        ),
        (
            "model: {popularity_term: auto, readout_search: {max_users: 9, readouts: [sum], popularity_terms: [0, 1]}}",
            ["split.valid={}"],
            "model.readout_search.readouts: goes with model.readout: auto; leave it out",
        ),
        ("", ["walks.gamma=0.5"], "walks.gamma: goes with walks.variant: node2vec_plus; leave it out"),
        (
            "",
            ["walks.variant=node2vec_plus"],
            "walks.variant: with walks.q 1, node2vec_plus is node2vec; leave it out",
        ),
        (
            "",
            ["walks={variant: node2vec_plus, q: 2, weighted: false}"],
            "walks.variant: with walks.weighted: false, node2vec_plus is node2vec; leave it out",
        ),
        (
            "",
            ["walks={mode: replicated, num_shards: 4}"],
            "walks.num_shards: goes with walks.mode: sharded or auto; leave it out",
        ),
        (
            "",
            ["baselines.item_knn.graph.edge_table=true"],
            "baselines.item_knn.graph.edge_table: only the graph of section graph is written as edges too; leave it "
            "out",
        ),
    ],
)
def test_a_knob_without_effect_is_told(tmp_path, section, overrides, problem):
    assert problems_of(write_minimal(tmp_path, section), *overrides) == [problem]


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.kind=spectral"],
        ["model={kind: ppmi_svd}"],
        ["model.kind=rp3beta", "training.num_threads=2", "training.num_processes=2"],
        ["model.objective=hierarchical_softmax"],
    ],
)
def test_a_file_is_tried_with_another_model(tmp_path, overrides):
    """What the file says to its own model is idle under the one that an override names, and stays."""
    conf = write_minimal(tmp_path, "training: {epochs: 9, num_negatives: 9, noise_exponent: 0.75}\n")
    load_config(conf, overrides)


def test_a_file_whose_auto_is_settled_by_an_override_loads(tmp_path):
    search = "readout_search: {max_users: 9, popularity_terms: [0, 1]}"
    conf = write_minimal(tmp_path, f"model: {{popularity_term: auto, {search}}}\n")
    load_config(conf, ["split.valid={}"])
    load_config(conf, ["model.popularity_term=0.1"])


def test_a_knob_at_its_default_is_never_idle(conf):
    load_config(conf, ["model.kind=spectral", "training.epochs=5", "model.readout=input"])


def test_the_cpu_kernel_has_one_process(conf):
    problems = problems_of(conf, "training.backend=cpu", "training.num_processes=4")
    assert problems[0].startswith("training.backend: the cpu kernel runs in one process")


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("training.corpus=sessions", "training.window: on sessions it needs an order"),
        ("graph.window=3", "graph.window, graph.distance_decay: need an order"),
        ("graph.distance_decay=0.5", "graph.window, graph.distance_decay: need an order"),
    ],
)
def test_what_needs_an_order_is_refused_without_one(tmp_path, override, problem):
    path = tmp_path / "run.yaml"
    path.write_text("source: {kind: files, path: x, format: csv, columns: {split: s}}\nsplit: {kind: given}\n")
    assert problems_of(path, override)[0].startswith(problem)


@pytest.mark.parametrize(
    ("corpus", "named"), [("sessions", "sessions"), ("{walks: 1, histories: 1}", "histories")], ids=["one", "mixed"]
)
def test_whole_sessions_need_no_order_but_a_decay_does(tmp_path, corpus, named):
    path = tmp_path / "run.yaml"
    path.write_text("source: {kind: files, path: x, format: csv, columns: {split: s}}\nsplit: {kind: given}\n")
    whole = (f"training.corpus={corpus}", "training.window=session")
    load_config(path, whole)
    assert problems_of(path, *whole, "training.position_decay=0.5") == [
        f"training.position_decay: on {named} it needs an order (source.columns.ts or position)"
    ]


CATEGORY = (
    "features=[{name: category, path: x, key: k, column: c}, {name: tags, path: x, key: k, column: d, kind: multi}]"
)
BOUGHT = ("training.conversion_context=purchase", "training.corpus=sessions", "sessions.collapse_repeats=false")


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            ["model.objective=hierarchical_softmax", "model.readout=sum"],
            "model.readout: sum needs an output vector an item, which objective hierarchical_softmax has not; set it "
            "to input",
        ),
        (
            ["model.objective=hierarchical_softmax", CATEGORY, "training.negative_group=category"],
            "training.negative_group: hierarchical_softmax draws no negatives; leave it out",
        ),
        (
            ["training.negative_group=market"],
            "training.negative_group: 'market' is no item feature (section features); there: none",
        ),
        (
            [CATEGORY, "training.negative_group=market"],
            "training.negative_group: 'market' is no item feature (section features); there: category, tags",
        ),
        (
            [CATEGORY, "training.negative_group=tags"],
            "training.negative_group: item feature 'tags' is multi, expected categorical",
        ),
        (
            [*BOUGHT, "training.corpus=walks"],
            "training.conversion_context: walks know no event types; set training.corpus to sessions, or mix them in",
        ),
        (
            [*BOUGHT, "training.corpus={walks: 1, histories: 1}"],
            "training.conversion_context: walks and histories know no event types; set training.corpus to sessions, or "
            "mix them in",
        ),
        (
            ["model.objective=hierarchical_softmax", "model.readout=auto", "split.valid.kind=user_share"],
            "model.readout: auto needs an output vector an item, which objective hierarchical_softmax has not; set it "
            "to input",
        ),
        (
            [*BOUGHT, "training.window=session"],
            "training.conversion_context: under window session every item is in all windows; leave one of them out",
        ),
        (
            [*BOUGHT, "sessions.collapse_repeats=true"],
            "training.conversion_context: a purchase right after a view of the same item would be collapsed into the "
            "view; set sessions.collapse_repeats to false",
        ),
        (
            [*BOUGHT, "clean.event_types=[view, click]"],
            "training.conversion_context: 'purchase' is not in clean.event_types (view, click)",
        ),
    ],
)
def test_knobs_of_the_skip_gram_family_that_contradict_each_other(conf, overrides, problem):
    assert problems_of(conf, *overrides) == [problem]


def test_knobs_of_the_skip_gram_family_that_go_together(conf):
    load_config(conf, BOUGHT)
    load_config(conf, [CATEGORY, "training.negative_group=category", "model.kind=cbow"])
    load_config(conf, ["model.objective=hierarchical_softmax", "model.kind=cbow", "training.position_decay=0.9"])
    conf.write_text(conf.read_text() + "training: {negative_group: market, conversion_context: purchase}\n")
    load_config(conf, ["model.kind=rp3beta"])


@pytest.mark.parametrize(("value", "found"), [("0", "0"), ("basket", "'basket'"), ("2.5", "2.5"), ("null", "null")])
def test_a_window_is_a_number_or_a_session(conf, value, found):
    problem = f"training.window: must be a number of items >= 1, or session, got {found}"
    assert problems_of(conf, f"training.window={value}") == [problem]
