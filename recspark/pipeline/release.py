"""What the commands about releases share: the lake they mean, the gates of a config, a publish outside a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recspark.config import load_config
from recspark.contracts.stages import INDEX_BUILD, RELEASE
from recspark.errors import ConfigError, ReleaseError
from recspark.lake.arrow import find_done
from recspark.lake.storage import check_lake
from recspark.pipeline.open_run import open_finished_run
from recspark.pipeline.side import run_stages
from recspark.releases.registry import Registry, ReleaseRow, read_registry

_SUFFIXES = (".yaml", ".yml")


def split_words(words: Sequence[str] | None) -> tuple[str | None, list[str]]:
    """(the release, settings) of what stands behind a lake or config; None for no release.

    Raises: ConfigError for more than one release.
    """
    overrides = [word for word in words or () if "=" in word]
    names = [word for word in words or () if "=" not in word]
    if len(names) > 1:
        raise ConfigError(f"{' '.join(names)}: takes one release, and settings as key=value")
    return names[0] if names else None, overrides


def find_lake(where: str, overrides: Sequence[str] = ()) -> str:
    """The lake that a folder, URI or config names.

    Raises: ConfigError for a wrong config, or overrides of none, LakeError for a place that cannot be a lake,
    ReleaseError for a local one that is not there.
    """
    if overrides and not _is_config(where):
        raise ConfigError(
            f"{' '.join(overrides)}: settings are those of a config, and {where} is a lake; give a YAML file"
        )
    lake = load_config(where, overrides).paths.lake if _is_config(where) else where
    check_lake(lake)
    if "://" not in lake and not Path(lake).is_dir():
        raise ReleaseError(f"{lake}: no such folder; give the lake, or the YAML file of a run that has been built")
    return lake


def find_limits(where: str, overrides: Sequence[str] = ()) -> dict[str, Any] | None:
    """The gates of a config that has section `release`; None for a lake, or a config without."""
    section = load_config(where, overrides).release if _is_config(where) else None
    return None if section is None else section.gates.model_dump(mode="json")


def find_row(lake: str, release_id: str | None) -> tuple[Registry, ReleaseRow]:
    """(all releases, the one named or the active one).

    Raises: ReleaseError when there is none.
    """
    registry = read_registry(lake)
    if release_id is not None:
        return registry, registry.find(release_id)
    if registry.active is None:
        raise ReleaseError(f"{lake}: no release is active; name one (`recspark release list`)")
    return registry, registry.active


def publish_release(conf: str, overrides: Sequence[str]) -> ReleaseRow:
    """Publishes the newest finished index of a config; without section `release`, by its defaults.

    Raises: ConfigError, LakeError or ReleaseError when there is nothing to publish, or it is not whole.
    """
    has_section = load_config(conf, overrides).release is not None
    run = open_finished_run(conf, overrides if has_section else [*overrides, "release={}"], INDEX_BUILD.name)
    run_stages(run, [RELEASE.name])
    done = find_done(run.lake, run.stages[RELEASE.name])
    assert done, "the stage has just run"
    return read_registry(run.lake).find(done[1].facts["release_id"])


def _is_config(where: str) -> bool:
    return where.endswith(_SUFFIXES)
