"""Section `source.privacy`: a plain hash is refused, the key stays in the environment, another one rebuilds all."""

import pytest
import yaml
from typer.testing import CliRunner

from recspark.cli import app
from recspark.config import load_config, plan_run
from recspark.config.explain import explain_config
from recspark.contracts.hidden_ids import fingerprint_of
from recspark.errors import ConfigError
from recspark.pipeline.plan import find_states
from recspark.pipeline.side import run_stages
from tests.helpers.configs import keys_of, problems_of, write_minimal
from tests.helpers.tiny_lake import plan_tiny, write_stage

KEY = "0123456789abcdef-of-the-lake"
OTHER_KEY = "fedcba9876543210-of-nobody"
FILES = "source.kind=files", "source.path=x", "source.format=csv", "source.columns={user_id: u, item_id: i, ts: t}"
ON = *FILES, "source.privacy={key: '${env:ID_KEY}'}"


@pytest.fixture
def conf(tmp_path, monkeypatch):
    monkeypatch.setenv("ID_KEY", KEY)
    monkeypatch.delenv("NO_KEY", raising=False)
    return write_minimal(tmp_path)


def test_the_key_is_printed_nowhere(conf):
    config = load_config(conf, ON)
    assert config.source.privacy.read_key() == KEY.encode()
    printed = CliRunner().invoke(app, ["config", str(conf), *ON])
    assert printed.exit_code == 0
    assert yaml.safe_load(printed.stdout)["source"]["privacy"]["key"] == "${env:ID_KEY}"
    sections = plan_run(config, {"fingerprint": "f00"}).stages["ingest"].sections
    assert sections["source"]["privacy"] == {
        "user_ids": "hmac", "item_ids": "as_found", "key_fingerprint": fingerprint_of(KEY.encode()),
    }  # fmt: skip
    for text in (printed.stdout, explain_config(config), repr(config), str(sections)):
        assert KEY not in text


def test_keys_hang_on_the_key_and_not_on_its_name(conf, monkeypatch):
    monkeypatch.setenv("SAME_KEY", KEY)
    monkeypatch.setenv("NEW_KEY", OTHER_KEY)
    keys = [keys_of(conf, *ON, f"source.privacy.key=${{env:{name}}}") for name in ("ID_KEY", "SAME_KEY", "NEW_KEY")]
    assert keys[0] == keys[1]
    assert not set(keys[0].values()) & set(keys[2].values())
    off = plan_run(load_config(conf, FILES), {"fingerprint": "f00"}).stages["ingest"].sections
    assert "privacy" not in off["source"]


PLAIN = "hides nothing: anyone can hash all ids there are and compare; take hmac, which needs the key"
NO_SECRET = "expected ${env:NAME}, a variable's name: a key in a file or a command line is no secret"
MISSING = (
    "source.privacy.key: the environment variable NO_KEY is not set; set it to 16 or more random bytes, such as "
    "`openssl rand -hex 32` prints, or give source.privacy.key_fingerprint where only stages that hide nothing are to "
    "run"
)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("source.privacy.user_ids=sha256", f"source.privacy.user_ids: 'sha256' {PLAIN}"),
        ("source.privacy.user_ids=plain", f"source.privacy.user_ids: 'plain' {PLAIN}"),
        ("source.privacy.item_ids=MD5", f"source.privacy.item_ids: 'MD5' {PLAIN}"),
        ("source.privacy.user_ids=as_found", "source.privacy.user_ids: must be 'hmac', got 'as_found'"),
        ("source.privacy.key=${env:NO_KEY}", MISSING),
        (
            "source.privacy.key=hunter2-hunter2-hunter2",
            f"source.privacy.key: {NO_SECRET}",
        ),
        (
            "source.privacy.key=12345678901234567890",
            f"source.privacy.key: {NO_SECRET}",
        ),
        (
            "source.privacy.key=${env:SHORT}",
            "source.privacy.key: the environment variable SHORT holds 15 bytes, which can be guessed; expected 16 or "
            "more, such as `openssl rand -hex 32` prints",
        ),
        (
            "source.privacy.key=${env:EMPTY}",
            "source.privacy.key: the environment variable EMPTY holds 0 bytes, which can be guessed; expected 16 or "
            "more, such as `openssl rand -hex 32` prints",
        ),
        (
            "source.privacy.key_fingerprint=0123456789ab",
            f"source.privacy.key: the key in ID_KEY has fingerprint {fingerprint_of(KEY.encode())}, but "
            f"source.privacy.key_fingerprint is 0123456789ab: another key, under which every id is another; set the "
            f"old one, or change the fingerprint to build all anew",
        ),
        (
            "source.kind=synthetic",
            "source.privacy: the generator's users are nobody's; leave it out",
        ),
        (
            "source.columns={user_id: u, item_id: u, ts: t}",
            "source.columns.item_id: is column 'u', as source.columns.user_id is, which source.privacy hides; give it "
            "one of its own",
        ),
        (
            "source.rules=[{name: bots, column: u, one_of: [bot@example.org]}]",
            "source.rules (bots): one_of on 'u', which source.privacy hides, would put ids into the record of every "
            "commit; test another column, or take the rows out before",
        ),
        (
            "features=[{name: login, of: user, path: x, key: u, column: u}]",
            "features (login): its column is its key 'u', the ids that source.privacy hides; leave it out",
        ),
    ],
)
def test_one_problem_says_where_and_what(conf, monkeypatch, override, problem):
    monkeypatch.setenv("SHORT", "k" * 15)
    monkeypatch.setenv("EMPTY", "")
    assert problems_of(conf, *ON, override) == [problem]


def test_an_edge_list_hides_its_nodes_or_nothing(conf):
    edges = "source.kind=edges", "source.path=x", "source.format=csv", "source.directed=false", "training.corpus=walks"
    on = *edges, "source.privacy={key: '${env:ID_KEY}'}"
    assert problems_of(conf, *on) == [
        "source.privacy: an edge list has no users; set source.privacy.item_ids to hmac to hide its nodes, or "
        "leave it out"
    ]
    config = load_config(conf, [*on, "source.privacy.item_ids=hmac"])
    assert set(config.source.hidden_columns.values()) == {"src", "dst"}


def test_machines_without_the_key_run_what_hides_nothing(conf, monkeypatch, tmp_path):
    with_key = keys_of(conf, *ON)
    monkeypatch.delenv("ID_KEY")
    pinned = *ON, f"source.privacy.key_fingerprint={fingerprint_of(KEY.encode())}"
    assert keys_of(conf, *pinned) == with_key
    run = plan_run(load_config(conf, [*pinned, f"paths.lake={tmp_path / 'lake'}"]), {"fingerprint": "f00"})
    with pytest.raises(
        ConfigError, match=r"source\.privacy\.key: the environment variable ID_KEY is not set here, and"
    ):
        run_stages(run, ["ingest"])


def test_the_dry_run_says_that_the_key_is_another(tmp_path, monkeypatch):
    monkeypatch.setenv("ID_KEY", KEY)
    source = {"kind": "files", "path": "x", "format": "csv", "columns": {"ts": "t"}}
    source["privacy"] = {"key": "${env:ID_KEY}"}
    write_stage(plan_tiny(tmp_path, source=source), "ingest", {})
    monkeypatch.setenv("ID_KEY", OTHER_KEY)
    (state,) = find_states(plan_tiny(tmp_path, source=source), ["ingest"])
    old, new = fingerprint_of(KEY.encode()), fingerprint_of(OTHER_KEY.encode())
    change = f"another id key (source.privacy.key_fingerprint '{old}' -> '{new}')"
    assert state.reason == f"config differs from the newest version: {change}"
