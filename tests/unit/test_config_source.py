"""Section `source`: values that no reader could use are refused with the config."""

import pytest
from pydantic import ValidationError

from recspark.config import load_config
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
