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


def test_knobs_of_training_do_not_matter_to_a_model_that_has_none(conf):
    load_config(conf, ["model.kind=spectral", "training.dense.weight_decay=0.1", "training.window=session"])


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
            "training.conversion_context: walks know no event types; set training.corpus to sessions",
        ),
        (
            [*BOUGHT, "training.corpus={sessions: 1, walks: 1, histories: 1}"],
            "training.conversion_context: walks and histories know no event types; set training.corpus to sessions",
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
    load_config(conf, ["model.kind=rp3beta", "training.negative_group=market", "training.conversion_context=purchase"])


@pytest.mark.parametrize(("value", "found"), [("0", "0"), ("basket", "'basket'"), ("2.5", "2.5"), ("null", "null")])
def test_a_window_is_a_number_or_a_session(conf, value, found):
    problem = f"training.window: must be a number of items >= 1, or session, got {found}"
    assert problems_of(conf, f"training.window={value}") == [problem]
