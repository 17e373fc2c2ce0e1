"""Section `source`: values that no reader could use are refused with the config."""

import pytest
from pydantic import ValidationError

from recspark.config import load_config, plan_run
from recspark.config.source import SourceConfig
from recspark.errors import ConfigError


@pytest.mark.parametrize("text", [",", ";", "|", "\t", "\u00a7", " "])
def test_a_separator_is_one_character(text):
    assert SourceConfig(separator=text).separator == text


def test_a_backslash_and_a_t_are_a_tab():
    assert SourceConfig(separator=r"\t").separator == "\t"


@pytest.mark.parametrize("text", ["", ",,", "||", '"', "\n", "\\", r"\n"])
def test_what_cannot_separate_is_refused(text):
    with pytest.raises(ValidationError, match="expected one character such as ',' or ';', or"):
        SourceConfig(separator=text)


def test_features_do_not_go_with_an_edge_list(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "source: {kind: edges, path: x, format: csv, directed: false}\n"
        "features: [{name: a, path: x, key: k, column: c}]\n"
    )
    with pytest.raises(ConfigError, match=r"features: an edge list's nodes take none; leave the section out"):
        load_config(path)


EDGES = "source: {kind: edges, path: x, format: csv, directed: false}\n"


@pytest.mark.parametrize(
    "sections",
    [
        "",
        "split: {}",
        "split: {kind: time}",
        "split: {kind: time, cut: '2026-01-01'}",
        "split: {kind: given, valid: {kind: last_k}}",
        "evaluate: {split: valid, search: index}\nsessions: {group_by: basket}",
    ],
)
def test_an_edge_list_has_nothing_to_split_or_evaluate(tmp_path, sections):
    """What is said about events anyway changes no key."""
    path = tmp_path / "run.yaml"
    keys = []
    for text in (EDGES, f"{EDGES}{sections}\n"):
        path.write_text(text)
        keys.append({n: s.key for n, s in plan_run(load_config(path), {"fingerprint": "f00"}).stages.items()})
    assert keys[0] == keys[1]
    assert list(keys[0]) == ["ingest", "walks", "train", "index"]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{kind: edges, path: x, format: csv}", "source.directed: needed for source.kind edges (false: an edge counts"),
        (
            "{kind: edges, path: x, directed: true}",
            "source.format: needed for source.kind edges (csv, parquet or jsonl",
        ),
        ("{kind: edgs, path: x, directed: true}", "source.kind: must be 'synthetic', 'files', 'delta' or 'edges', got"),
    ],
)
def test_an_edge_list_that_lacks_something_is_not_asked_for_a_split(tmp_path, source, problem):
    path = tmp_path / "run.yaml"
    path.write_text(f"source: {source}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    head, found = str(caught.value).splitlines()
    assert head == f"{path} has 1 problem:"
    assert found.strip().startswith(problem)


def test_what_source_and_split_of_events_lack_comes_together(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("source: {kind: files, columns: {ts: a, position: b}}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        "source.path: needed for source.kind files (a file, folder, glob or URI)",
        "source.format: needed for source.kind files (csv, parquet or jsonl)",
        "source.columns: has both ts and position; give one",
        "split.cut: needed for split.kind time (an ISO time such as 2026-02-16), or choose another split.kind",
    ]
