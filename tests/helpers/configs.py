"""Configs to load in tests: the smallest one, what is wrong with one, the keys of its stages."""

from pathlib import Path
from typing import Any

import pytest

from recspark.config import load_config, plan_run
from recspark.errors import ConfigError

MINIMAL = "split: {kind: time, cut: '2026-01-01'}\n"
SOURCE = {"fingerprint": "f00", "kind": "synthetic"}
EDGES = ("source.kind=edges", "source.path=x", "source.format=csv", "source.directed=false")


def write_minimal(folder: Path, more: str = "") -> Path:
    """A file with the smallest config, and what is given."""
    path = folder / "run.yaml"
    path.write_text(MINIMAL + more)
    return path


def problems_of(conf: Path, *overrides: str) -> list[str]:
    """The lines of a config's error, after its head."""
    with pytest.raises(ConfigError) as caught:
        load_config(conf, overrides)
    head, *problems = str(caught.value).splitlines()
    noun = "problem" if len(problems) == 1 else "problems"
    assert head == f"{conf} has {len(problems)} {noun}:"
    return [p.strip() for p in problems]


def keys_of(conf: Path, *overrides: str, source: dict[str, Any] = SOURCE) -> dict[str, str]:
    """Stage -> key."""
    return {name: stage.key for name, stage in plan_run(load_config(conf, overrides), source).stages.items()}
