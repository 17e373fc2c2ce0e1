"""One message with every problem; overrides; the keys that decide what is rebuilt."""

import re
from pathlib import Path
from typing import get_origin

import pytest

from recspark.config import RunConfig, load_config, plan_run
from recspark.config.plan import RUN_VARIABLE
from recspark.config.section import Section, types_in
from recspark.errors import ConfigError
from recspark.training.pairing import MAX_SENTENCE
from tests.helpers.configs import MINIMAL, SOURCE, keys_of, problems_of, write_minimal

CONF = Path(__file__).resolve().parents[2] / "conf"
_NOT_ALONE = {
    "split", "source.privacy", "training.conversion_context", "training.dense.slowmo", "training.warm_start",
    "model.towers.negatives.explicit",
}  # fmt: skip
"""Knobs that lack or contradict several others."""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    return write_minimal(tmp_path)


def test_every_shipped_config_loads():
    paths = sorted(CONF.rglob("*.yaml"))
    assert paths
    for path in paths:
        load_config(path)


def test_every_config_in_the_readme_loads(tmp_path):
    blocks = re.findall(r"^```yaml\n(.*?)^```", (CONF.parent / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    path, kinds = tmp_path / "run.yaml", []
    for block in blocks:
        path.write_text(block)
        kinds.append(load_config(path).source.kind)
    assert {"files", "edges"} <= set(kinds)


def test_every_knob_has_a_description():
    def undescribed(model, prefix=""):
        for name, field in model.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and hasattr(inner, "model_fields"):
                yield from undescribed(inner, f"{prefix}{name}.")
            elif prefix and not field.description:
                yield prefix + name

    assert list(undescribed(RunConfig)) == []


def knobs_of(model, prefix=""):
    """Dotted keys of all sections and knobs but those of list entries."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if get_origin(field.annotation) not in (tuple, dict):
            for inner in types_in(field.annotation):
                if issubclass(inner, Section):
                    yield from knobs_of(inner, f"{prefix}{name}.")


def test_two_problems_in_one_message(conf):
    assert problems_of(conf, "walks.p=-1", "index.nlst=3") == [
        "walks.p: must be > 0, got -1",
        "index.nlst: unknown key; did you mean index.nlist?",
    ]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("walks=3", "walks: must be a mapping (several `name: value` lines), got 3"),
        ("walks=[{p: 1}]", "walks: must be a mapping (several `name: value` lines), got a list"),
        ("spark.conf=a", "spark.conf: must be a mapping (several `name: value` lines), got 'a'"),
        ("source.columns=true", "source.columns: must be a mapping (several `name: value` lines), got true"),
        ("evaluate.ks=10", "evaluate.ks: must be a list such as [a, b], got 10"),
        ("features={name: a}", "features: must be a list such as [a, b], got a mapping"),
        ("features=[brand]", "features.0: must be a mapping (several `name: value` lines), got 'brand'"),
        ("run.name=[a]", "run.name: must be a valid string, got a list"),
        (
            "training.epochs=two",
            "training.epochs: must be a valid integer, unable to parse string as an integer, got 'two'",
        ),
        ("zzz.b=1", "zzz: unknown key; known here: run, paths, source, features, clean"),
        ("graph.score=dice", "graph.score: must be 'count', 'cosine', 'jaccard', 'lift', 'ppmi' or 'llr', got 'dice'"),
        ("source.kind=files", "source.path: needed for source.kind files (a file, folder, glob or URI)"),
        ("nonsense", "override 'nonsense': expected key=value, such as walks.p=0.5"),
        ("run.name.x=1", "override 'run.name.x=1': name is not a section"),
        ("split.kind=given", "split.cut: goes with split.kind time, not with given; leave it out or set it to null"),
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
        (
            "model.kind=deepwalk",
            "model.kind: must be 'skip_gram', 'cbow', 'two_tower', 'mf', 'light_gcn', 'popularity', 'item_knn', ",
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


@pytest.mark.parametrize(
    ("cut", "is_early"), [("2026-01-31T23:00:00Z", True), ("2026-02-01T00:30:00+01:00", True), ("2026-02-01", False),
                          ("2026-01-31T23:30:00-01:00", False), ("2026-05-01", False)],
)  # fmt: skip
def test_a_validation_slice_begins_before_train_ends(tmp_path, cut, is_early):
    path = tmp_path / "run.yaml"
    path.write_text(f"split: {{kind: time, cut: '2026-02-01', valid: {{kind: time, cut: '{cut}'}}}}\n")
    if is_early:
        assert load_config(path).split.valid.cut == cut
        return
    assert problems_of(path) == [
        "split.valid.cut: the slice is cut from train, which ends at split.cut (2026-02-01); choose an earlier time "
        f"than {cut}"
    ]


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
        (["walks=3"], ["walks: must be a mapping (several `name: value` lines), got 3"]),
        (
            ["walks=3", "sessions.group_by=basket"],
            ["walks: must be a mapping", "sessions.group_by: basket needs source.columns.basket_id"],
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
        ("index.refine=off", "index.refine: must be 'none', 'fp16' or 'sq8', got false (YAML reads yes, no, on and"),
        ("evaluate.ks=[]", "evaluate.ks: must have at least 1 item"),
    ],
)
def test_numbers_and_texts_are_what_people_mean(conf, override, problem):
    (found,) = problems_of(conf, override)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (
            "no",
            "run.name: must be a valid string, got false (YAML reads yes, no, on and off as true and false: quote a "
            "text, such as 'no')",
        ),
        ("2026", "run.name: must be a valid string, got 2026 (quote a text, such as '2026')"),
    ],
)
def test_a_text_in_the_file_is_quoted_where_it_looks_like_something_else(tmp_path, given, problem):
    assert problems_of(write_minimal(tmp_path, f"run: {{name: {given}}}\n")) == [problem]


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("2026", "2026"),
        ("007", "007"),
        ("1_000", "1_000"),
        ("no", "no"),
        ("1.50", "1.50"),
        ("'5'", "5"),
        ("a b", "a b"),
    ],
)
def test_a_text_beside_the_file_is_what_was_typed(conf, typed, read):
    assert load_config(conf, [f"run.name={typed}"]).run.name == read


def test_a_model_id_of_digits_alone_is_one(conf):
    start = load_config(conf, ["training.warm_start.model_id=000000000000", "training.warm_start.lake=null"])
    assert start.training.warm_start.model_id == "000000000000"
    assert start.training.warm_start.lake is None
    assert problems_of(conf, "training.warm_start.model_id=0123") == [
        "training.warm_start.model_id: must be the 12 hex digits that a model's folder is called by, got '0123'"
    ]


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


def test_powers_of_ten_are_numbers_wherever_a_number_is_one_choice_of_several(conf):
    conf.write_text(MINIMAL + "model: {popularity_term: 1e-2, history_decay: 5E-1}\n")
    config = load_config(conf, ["training.corpus={walks: 1e-9, sessions: 1}", "training.window=1e1"])
    assert (config.model.popularity_term, config.model.history_decay) == (0.01, 0.5)
    assert (config.training.corpus, config.training.window) == ({"walks": 1e-9, "sessions": 1}, 10)
    start = load_config(conf, ["training.warm_start.model_id=123456789e12"]).training.warm_start
    assert start is not None
    assert start.model_id == "123456789e12"


@pytest.mark.parametrize(
    ("found", "meant"),
    [("skip-gram", "skip_gram"), ("Cbow", "cbow"), ("skipgram", "skip_gram"), ("ppmi svd", "ppmi_svd")],
)
def test_a_choice_spelt_alike_is_suggested(conf, found, meant):
    (problem,) = problems_of(conf, f"model.kind={found}")
    assert problem.endswith(f", 'spectral' or 'auto', got {found!r}; did you mean {meant}?")


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("source.num_items=300", "source.num_items: unknown key; did you mean source.synthetic.num_items?"),
        ("epochs=3", "epochs: unknown key; did you mean training.epochs?"),
        ("walks.epochs=3", "walks.epochs: unknown key; did you mean walks.num_epochs or training.epochs?"),
        (
            "baselines.item_knn.num_neighbours=3",
            "baselines.item_knn.num_neighbours: unknown key; did you mean baselines.item_knn.graph.num_neighbours?",
        ),
        (
            "model={kind: cbow, seed: 3}",
            "model.seed: unknown key; did you mean run.seed or split.valid.seed?",
        ),
        (
            "features=[{nam: a, path: x, key: a, column: c}]",
            "features.0.nam: unknown key; did you mean features.0.name?",
        ),
        (
            "training.warm_start={model_di: cd6eebe97abc}",
            "training.warm_start.model_di: unknown key; did you mean training.warm_start.model_id?",
        ),
    ],
)
def test_an_unknown_key_is_sought_elsewhere_first(conf, override, problem):
    assert problems_of(conf, override) == [problem]


@pytest.mark.parametrize(
    "shape", ["[[.nan]]", "[.nan]", "{zz: {zz: .inf}}", "no such text", ".nan", "[]", "{}", "-1", "yes"]
)
def test_one_wrong_value_is_one_line(conf, shape):
    """Whatever a knob is given: it is accepted, or one line about it says what is wrong."""
    needed, told = "training.warm_start.model_id=0123456789ab", {}
    for key in knobs_of(RunConfig):
        if key in _NOT_ALONE:
            continue
        given = [needed] * key.startswith("training.warm_start.") + [f"{key}={shape}"]
        try:
            load_config(conf, given)
        except ConfigError as error:
            told[key] = [line.strip() for line in str(error).splitlines()[1:] if line.strip().startswith(key)]
    assert told
    assert {key: problems for key, problems in told.items() if len(problems) > 1} == {}


def test_booleans_stay_booleans(conf):
    config = load_config(conf, ["evaluate.mask_seen=no", "walks.weighted=0", "model.centred=on"])
    assert (config.evaluate.mask_seen, config.walks.weighted, config.model.centred) == (False, False, True)


def test_all_that_a_source_lacks_is_told_at_once(conf):
    assert problems_of(conf, "source.kind=edges") == [
        "source.path: needed for source.kind edges (a file, folder, glob or URI)",
        "source.format: needed for source.kind edges (csv, parquet or jsonl)",
        "source.directed: needed for source.kind edges (false: an edge counts both ways, true: from src to dst only)",
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
        (
            "training.window=3000000000",
            "training.window: must be at most 255, got 3000000000: sequences are cut into pieces of 256 items, and no "
            "window sees more; session takes a whole sequence",
        ),
        ("training.window=256", "training.window: must be at most 255, got 256"),
        ("run.seed=99999999999999999999", "run.seed: must be < 9223372036854775808, got 99999999999999999999"),
        ("run.seed=-1", "run.seed: must be >= 0, got -1"),
        ("training.shared_negatives=1000000000", "training.shared_negatives: must be <= 65536, got 1000000000"),
        ("training.init_scale=1e30", "training.init_scale: must be <= 100, got 1"),
    ],
)
def test_values_that_would_fail_hours_later_are_refused_now(conf, override, problem):
    assert problems_of(conf, override)[0].startswith(problem)


def test_the_largest_values_are_taken(conf):
    config = load_config(conf, [f"run.seed={2**63 - 1}", "training.window=255", "training.shared_negatives=65536"])
    assert (config.run.seed, config.training.window) == (2**63 - 1, MAX_SENTENCE - 1)


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
        ("- a\n", "expected sections such as `source:`, found a list"),
        ("a\n", "expected sections such as `source:`, found a text"),
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


@pytest.mark.parametrize(
    ("override", "rebuilt"),
    [
        ("walks.p=0.5", {"walks", "train", "index", "evaluate"}),
        ("index.num_shards=3", {"index"}),
        ("evaluate.ks=[5]", {"evaluate"}),
        ("baselines.item_knn.graph.num_neighbours=7", {"item_knn_graph", "evaluate"}),
        ("training.num_threads=1", set()),
        ("training.max_restarts=2", set()),
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
