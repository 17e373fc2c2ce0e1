"""One message with every problem; overrides; the keys that decide what is rebuilt."""

from pathlib import Path

import pytest

from recspark.config import RunConfig, load_config, plan_run
from recspark.config.plan import RUN_VARIABLE
from recspark.errors import ConfigError

CONF = Path(__file__).resolve().parents[2] / "conf"
MINIMAL = "split: {kind: time, cut: '2026-01-01'}\n"
SOURCE = {"fingerprint": "f00", "kind": "synthetic"}


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    return path


def problems_of(conf: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(conf, overrides)
    head, *problems = str(caught.value).splitlines()
    noun = "problem" if len(problems) == 1 else "problems"
    assert head == f"{conf} has {len(problems)} {noun}:"
    return [p.strip() for p in problems]


def test_every_shipped_config_loads():
    paths = sorted(CONF.rglob("*.yaml"))
    assert paths
    for path in paths:
        load_config(path)


def test_every_knob_has_a_description():
    def undescribed(model, prefix=""):
        for name, field in model.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and hasattr(inner, "model_fields"):
                yield from undescribed(inner, f"{prefix}{name}.")
            elif prefix and not field.description:
                yield prefix + name

    assert list(undescribed(RunConfig)) == []


def test_two_problems_in_one_message(conf):
    assert problems_of(conf, "walks.p=-1", "index.nlst=3") == [
        "walks.p: must be > 0, got -1",
        "index.nlst: unknown key; did you mean index.nlist?",
    ]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("walks=3", "walks: must be a valid dictionary or instance of WalksConfig, got 3"),
        (
            "training.epochs=two",
            "training.epochs: must be a valid integer, unable to parse string as an integer, got 'two'",
        ),
        ("zzz.b=1", "zzz: unknown key; known here: run, paths, source, features, clean"),
        ("graph.score=dice", "graph.score: must be 'count', 'cosine', 'jaccard' or 'ppmi', got 'dice'"),
        ("source.kind=files", "source: source.kind files needs source.path"),
        ("nonsense", "override 'nonsense': expected key=value, such as walks.p=0.5"),
        ("run.name.x=1", "override 'run.name.x=1': name is not a section"),
        ("split.kind=given", "split: split.cut goes with split.kind: time"),
        ("training.corpus=sessions walks", "training.corpus: must be 'walks', 'sessions' or 'histories'"),
        ("training.corpus={walks: 1, sesions: 2}", "{walks: 1.0, sessions: 0.5}, got {walks: 1, sesions: 2}"),
        ("training.corpus={walks: 1, sessions: 0}", "training.corpus: the weight of sessions must be a number above 0"),
        ("training.corpus={}", "training.corpus: must be 'walks', 'sessions' or 'histories'"),
        ("model.centred=maybe", "model.centred: must be true, false or auto, got 'maybe'"),
        ("model.popularity_term=much", "model.popularity_term: must be a number or auto, got 'much'"),
        ("model.history_decay=0", "model.history_decay: must be above 0 and at most 1, or auto, got 0"),
        ("model.history_decay=soon", "model.history_decay: must be above 0 and at most 1, or auto, got 'soon'"),
        ("model.readout_search.history_decays=[2]", "model.readout_search.history_decays.0: must be <= 1, got 2"),
        (
            "model.readout_search.metric=auc@3",
            "model.readout_search.metric: must be recall, ndcg, hr, mrr or map at a cut-off such as recall@20, got",
        ),
        (
            "training.warm_start.model_id=best",
            "training.warm_start.model_id: must be the 12 hex digits that a model's folder is called by, got 'best'",
        ),
        ("run.name=${env:RECSPARK_NO_SUCH_NAME}", "the environment variable RECSPARK_NO_SUCH_NAME is not set"),
    ],
)
def test_one_problem_says_where_and_what(conf, override, problem):
    if override.startswith("run.name.x"):
        conf.write_text(MINIMAL + "run: {name: a}\n")
    found = problems_of(conf, override)
    assert problem in found[0]


def test_contradictions_between_sections_come_together(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "source: {kind: files, path: x, format: csv}\nsplit: {kind: given}\nclean: {max_events_per_minute: 3}\n"
        "sessions: {group_by: basket}\nwalks: null\n"
    )
    assert problems_of(path) == [
        "clean.max_events_per_minute: needs source.columns.ts",
        "split.kind: given needs source.columns.split",
        "sessions.group_by: basket needs source.columns.basket_id",
        "training.corpus: walks needs a walks section; set training.corpus to sessions",
    ]


@pytest.mark.parametrize(
    ("columns", "sections", "problem"),
    [
        ("{position: n}", "split: {kind: leave_last_out}", "sessions.group_by: gap needs times"),
        ("{}", "split: {kind: leave_last_out}", "split.kind: leave_last_out needs an order"),
        ("{split: s}", "split: {kind: given, valid: {kind: last_k}}", "split.valid.kind: last_k needs an order"),
        (
            "{split: s}",
            "split: {kind: given, valid: {kind: time, cut: '2026-01-01'}}",
            "split.valid.kind: time needs source.columns.ts",
        ),
        (
            "{ts: t}",
            "split: {kind: leave_last_out, valid: {kind: given}}",
            "split.valid.kind: given needs source.columns.split",
        ),
    ],
)
def test_a_split_that_the_source_cannot_give(tmp_path, columns, sections, problem):
    path = tmp_path / "run.yaml"
    path.write_text(f"source: {{kind: files, path: x, format: csv, columns: {columns}}}\n{sections}\n")
    assert any(p.startswith(problem) for p in problems_of(path))


def test_a_source_without_times_may_be_grouped_by_user(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "source: {kind: files, path: x, format: csv, columns: {position: n}}\n"
        "split: {kind: leave_last_out}\nsessions: {group_by: user}\n"
    )
    assert load_config(path).source.order == "position"


def test_a_date_without_quotes_stays_a_text(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("split: {kind: time, cut: 2026-02-16}\n")
    assert load_config(path, ["source.latest=2027-01-01"]).split.cut == "2026-02-16"


def test_contradictions_are_found_beside_wrong_values(conf):
    problems = problems_of(conf, "walks.p=-1", "evaluate.search=index", "index=null", "sessions.group_by=basket")
    assert problems == [
        "walks.p: must be > 0, got -1",
        "sessions.group_by: basket needs source.columns.basket_id",
        "evaluate.search: index needs an index section",
    ]


@pytest.mark.parametrize(
    ("overrides", "problems"),
    [
        (["split.cut=2026-99-99"], ["split.cut: expected an ISO time such as 2026-02-16 or 2026-02-16T12:00:00Z"]),
        (["split.cutt=2026-01-01", "split.cut=null"], ["split.cutt: unknown key; did you mean split.cut?"]),
        (["split.kind=tiem"], ["split.kind: must be 'time', 'given' or 'leave_last_out', got 'tiem'"]),
        (
            ["source={kind: files, path: x, format: csv, columns: {tss: t}}"],
            ["source.columns.tss: unknown key; did you mean source.columns.ts?"],
        ),
        (["source={kind: flies, path: x, columns: {}}"], ["source.kind: must be 'synthetic', 'files', 'delta' or"]),
        (["training.num_lanes=x", "training.batch_sequences=1000"], ["training.num_lanes: must be a valid integer"]),
        (["walks=3"], ["walks: must be a valid dictionary or instance of WalksConfig, got 3"]),
        (
            ["walks=3", "sessions.group_by=basket"],
            ["walks: must be a valid dictionary", "sessions.group_by: basket needs source.columns.basket_id"],
        ),
        (
            ["source.rules=[{name: A, column: x, is_null: true}]", "walks.p=-1", "sessions.group_by=basket"],
            [
                "source.rules.0.name: must match pattern",
                "walks.p: must be > 0, got -1",
                "sessions.group_by: basket needs source.columns.basket_id",
            ],
        ),
    ],
)
def test_a_wrong_value_is_told_once_and_nothing_that_follows_from_it(conf, overrides, problems):
    found = problems_of(conf, *overrides)
    assert len(found) == len(problems), found
    assert all(one.startswith(expected) for one, expected in zip(found, problems, strict=True)), found


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("training.epochs=true", "training.epochs: must be a valid integer, got true"),
        ("graph.window=off", "graph.window: must be a valid integer, got false"),
        ("walks.p=yes", "walks.p: must be a valid number, got true"),
        ("evaluate.ks=[5, true]", "evaluate.ks: must be a valid integer, got [5, true]"),
        ("clean.event_weights={view: no}", "clean.event_weights: must be a valid number, got {view: false}"),
        ("index.nbits=true", "index.nbits: must be 4 or 8, got true"),
        ("training.epochs=1.5e0", "training.epochs: must be a valid integer"),
        ("training.epochs=", "training.epochs: must be a valid integer, got null"),
        (
            "run.name=no",
            "run.name: must be a valid string, got false (YAML reads yes, no, on and off as true and false: quote a "
            "text, such as 'no')",
        ),
        ("index.refine=off", "index.refine: must be 'none', 'fp16' or 'sq8', got false (YAML reads yes, no, on and"),
        ("run.name=2026", "run.name: must be a valid string, got 2026 (quote a text, such as '2026')"),
        ("evaluate.ks=[]", "evaluate.ks: must have at least 1 item"),
    ],
)
def test_numbers_and_texts_are_what_people_mean(conf, override, problem):
    (found,) = problems_of(conf, override)
    assert found.startswith(problem)


def test_powers_of_ten_are_numbers(conf):
    overrides = [
        "training.epochs=1e1",
        "index.train_sample=2E+5",
        "evaluate.ks=[1e1, 20]",
        "walks.p=1e-1",
        "run.name=1e3",
    ]
    config = load_config(conf, overrides)
    assert (config.training.epochs, config.index.train_sample, config.evaluate.ks) == (10, 200_000, (10, 20))
    assert (config.walks.p, config.run.name) == (0.1, "1e3")


def test_booleans_stay_booleans(conf):
    config = load_config(conf, ["evaluate.mask_seen=no", "walks.weighted=0", "model.centred=on"])
    assert (config.evaluate.mask_seen, config.walks.weighted, config.model.centred) == (False, False, True)


def test_all_that_a_source_lacks_is_told_at_once(conf):
    assert problems_of(conf, "source.kind=edges") == [
        "source: source.kind edges needs source.path",
        "source.kind edges needs source.format (csv, parquet or jsonl)",
        "source.kind edges needs source.directed (true or false)",
    ]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("split.cut=16.02.2026", "split.cut: expected an ISO time such as 2026-02-16"),
        ("source.timezone=Mars", "source.timezone: expected an IANA time zone such as Europe/Berlin, got 'Mars'"),
        ("source.synthetic.start=foo", "source.synthetic.start: expected a day such as 2026-02-16, got 'foo'"),
        ("evaluate.ks=[]", "evaluate.ks: "),
        (
            "training.batch_sequences=1000",
            "training.batch_sequences: must be a multiple of training.num_lanes (64), got 1000",
        ),
        ("training.num_processes=3", "training.num_processes: must divide training.num_lanes (64), got 3"),
    ],
)
def test_values_that_would_fail_hours_later_are_refused_now(conf, override, problem):
    assert problems_of(conf, override)[0].startswith(problem)


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
    edges = ["source.kind=edges", "source.path=x", "source.format=csv", "source.directed=false"]
    for override, problem in (
        ("model.history_decay=0.5", "model.history_decay: an edge list has no users, so no histories; leave it out"),
        ("model.metric=auto", "model.metric: auto is chosen by how users are served, and an edge list has no users"),
        ("training.corpus={sessions: 1, histories: 2}", "training.corpus: an edge list has no sessions and histories"),
    ):
        assert problems_of(conf, *edges, override)[0].startswith(problem)


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


def test_two_features_of_one_name(conf):
    feature = "{name: a, path: x, key: k, column: c}"
    assert problems_of(conf, f"features=[{feature}, {feature}]") == ["features: two item features are called a"]


def test_rule_needs_exactly_one_test(conf):
    problems = problems_of(conf, "source.rules=[{name: a}, {name: b, column: x, is_null: true, one_of: [y]}]")
    assert problems == [
        "source.rules.0: rule 'a' needs exactly one test, got none",
        "source.rules.1: rule 'b' needs exactly one test, got is_null, one_of",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("split: {kind: time}\nsplit: {kind: given}\n", "key given twice: split"),
        ("run: &a {name: *a}\n", "an anchor holds itself"),
        ("- a\n", "expected sections"),
        ("a: [", "not valid YAML"),
        ("", "split.cut: needed for split.kind time"),
    ],
)
def test_a_file_that_is_no_config(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_a_missing_file_names_those_beside_it(conf):
    with pytest.raises(ConfigError, match=rf"no such config file; there are {conf}"):
        load_config(conf.with_name("other.yaml"))


def test_code_in_yaml_is_refused(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text("run: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(path)


def test_environment_is_expanded(conf, monkeypatch):
    monkeypatch.setenv("RECSPARK_TEST_LAKE", "/somewhere")
    conf.write_text(MINIMAL + "paths: {lake: '${env:RECSPARK_TEST_LAKE}/lake'}\n")
    assert load_config(conf).paths.lake == "/somewhere/lake"


def keys_of(conf: Path, *overrides: str, source=SOURCE) -> dict[str, str]:
    return {name: stage.key for name, stage in plan_run(load_config(conf, overrides), source).stages.items()}


@pytest.mark.parametrize(
    ("override", "rebuilt"),
    [
        ("walks.p=0.5", {"walks", "train", "index", "evaluate"}),
        ("index.num_shards=3", {"index"}),
        ("evaluate.ks=[5]", {"evaluate"}),
        ("baselines.item_knn.graph.num_neighbours=7", {"item_knn_graph", "evaluate"}),
        ("training.num_threads=1", set()),
        ("graph.num_blocks=5", set()),
        ("run.seed=2", {"ingest", "sessions", "graph", "item_knn_graph", "walks", "train", "index", "evaluate"}),
        ("paths.lake=other", set()),
        ("source.synthetic.num_partitions=3", set()),
        ("source.version=5", set()),
        ("baselines.item_knn.graph.task_memory_mb=5", set()),
        ("training.num_processes=2", {"train", "index", "evaluate"}),
    ],
)
def test_a_key_hangs_on_what_decides_the_result(conf, override, rebuilt):
    before, after = keys_of(conf), keys_of(conf, override)
    assert {name for name in before if before[name] != after[name]} == rebuilt


def test_another_source_state_rebuilds_all(conf):
    before, after = keys_of(conf), keys_of(conf, source={"fingerprint": "f01"})
    assert not set(before.values()) & set(after.values())


def test_edges_have_no_users_and_no_evaluation(conf):
    edges = ["source.kind=edges", "source.path=x", "source.format=csv", "source.directed=false"]
    run = plan_run(load_config(conf, edges), SOURCE)
    assert list(run.stages) == ["ingest", "walks", "train", "index"]
    assert run.producer("item_graph").name == "ingest"


def test_producer_of_the_graph_is_not_a_baseline(conf):
    run = plan_run(load_config(conf), SOURCE)
    assert run.producer("item_graph").name == "graph"
    assert run.stages["walks"].upstream == {"graph": run.stages["graph"].key}


def test_children_share_run_id_and_source(conf, monkeypatch):
    parent = plan_run(load_config(conf), SOURCE)
    monkeypatch.setenv(RUN_VARIABLE, parent.to_environment()[RUN_VARIABLE])
    child = plan_run(load_config(conf), {"fingerprint": "changed meanwhile"})
    assert child.run_id == parent.run_id
    assert child.stages == parent.stages
