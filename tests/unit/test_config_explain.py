"""`recspark config --explain`: the same config, every knob under what it means."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from recspark.cli import app
from recspark.config import load_config
from recspark.config.explain import explain_config
from recspark.config.schema import RunConfig, TrainingConfig
from recspark.config.section import Section, types_in
from tests.helpers.configs import write_minimal

CONF = Path(__file__).resolve().parents[2] / "conf"


def words_of(text: str) -> str:
    return " ".join(re.sub(r"^[ #]+", "", line) for line in text.splitlines() if "#" in line)


def descriptions_in(section: type[Section], seen: set[Any]) -> dict[str, str]:
    """Of all knobs of a section and of all sections in it, those of list entries too."""
    seen.add(section)
    found = {f"{section.__name__}.{name}": field.description or "" for name, field in section.model_fields.items()}
    for field in section.model_fields.values():
        for inner in types_in(field.annotation):
            if issubclass(inner, Section) and inner not in seen:
                found |= descriptions_in(inner, seen)
    return found


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_it_reads_as_the_config_does(path):
    config = load_config(path)
    assert yaml.safe_load(explain_config(config)) == config.model_dump(mode="json")


def test_every_description_is_there(tmp_path):
    said = words_of(explain_config(load_config(write_minimal(tmp_path))))
    descriptions = descriptions_in(RunConfig, set())
    assert len(descriptions) > 200
    assert [key for key, text in descriptions.items() if " ".join(text.split()) not in said] == []


def test_a_knob_stands_under_its_description(tmp_path):
    lines = explain_config(load_config(write_minimal(tmp_path), ["training.keep_checkpoints=3"])).splitlines()
    at = lines.index("  keep_checkpoints: 3")
    assert lines[at - 1] == f"  # {TrainingConfig.model_fields['keep_checkpoints'].description}"


def test_choices_and_what_is_off_are_shown(tmp_path):
    text = explain_config(load_config(write_minimal(tmp_path), ["index=null"]))
    assert "also the unit of support. One of: session, user.\n  group: session\n" in text
    assert "\nindex: null\n# where it is given:\n#   # auto picks by size" in text
    assert "\n  #   model_id: (needed)\n" in text


def test_the_command(tmp_path):
    conf = write_minimal(tmp_path)
    plain, explained = (CliRunner().invoke(app, ["config", str(conf), *more]).output for more in ([], ["--explain"]))
    assert yaml.safe_load(plain) == yaml.safe_load(explained)
    assert "#" not in plain
    assert "# Passes over the corpus" in explained
