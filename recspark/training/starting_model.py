"""The model that `training.warm_start` names, before an array of it is read: is it there, does it fit, and has it
learned from nothing that this run holds out? Cheap enough for the start of a `recspark run`.
"""

from typing import Any

import pyarrow.fs as pafs

from recspark.config import Run, RunConfig
from recspark.config.section import to_utc
from recspark.contracts.manifest import Manifest
from recspark.errors import LakeError, TrainingError
from recspark.lake.arrow import read_record
from recspark.lake.folders import read_manifest
from recspark.lake.storage import join, open_filesystem

MODELS = "models"
_STEPPED = ("skip_gram", "cbow")
"""Values of model.kind whose models hold what a training needs to go on."""
_SHOWN = 5


def check_start(run: Run) -> Manifest | None:
    """The manifest of the run's earlier model, None where it starts from none.

    Raises: TrainingError when it is not there, does not fit, or knows what this run holds out; LakeError when its
    manifest is damaged.
    """
    config = run.config.training.warm_start
    if config is None:
        return None
    lake = config.lake or run.lake
    manifest = find_model_to_start(lake, config.model_id, run.config.model.embedding_dim)
    if run.config.source.kind != "edges":  # which hold nothing out
        split = _read_split(lake, manifest)
        check_split(manifest.id, split, run.config.section("split"), _find_uses_of_valid(run.config))
    return manifest


def find_model_to_start(lake: str, model_id: str, embedding_dim: int) -> Manifest:
    """The manifest of ``models/<model_id>``.

    Raises: TrainingError when there is none, or it is of another kind or dimension; LakeError when it is damaged.
    """
    manifest = read_manifest(lake, MODELS, model_id)
    if manifest is None:
        raise TrainingError(
            f"training.warm_start: no model {model_id} in {join(lake, MODELS)}; {_describe_models(lake)}"
        )
    where = f"training.warm_start: model {model_id} of {lake}"
    kind, dim = manifest.facts.get("model_kind"), manifest.facts.get("embedding_dim")
    if kind not in _STEPPED:
        raise TrainingError(
            f"{where} is of model.kind {kind}: it takes models of the skip-gram family; give another model_id, or "
            f"leave warm_start out"
        )
    if dim != embedding_dim:
        raise TrainingError(
            f"{where} has vectors of {dim} floats, model.embedding_dim is {embedding_dim}; set it to {dim}, or leave "
            f"warm_start out"
        )
    return manifest


def check_split(
    model_id: str, earlier: dict[str, Any] | None, split: dict[str, Any], uses_of_valid: tuple[str, ...]
) -> None:
    """Checks that a model has learned from nothing that a run holds out.

    ``earlier`` is section `split` of the config that the model was made by, None for an edge list; ``split`` is that of
    the run, and ``uses_of_valid`` are the knobs that have something chosen or scored on its validation slice. Other
    kinds than time cuts can't be compared and have to agree.

    Raises: TrainingError when it has.
    """
    if earlier is None:
        return
    model = f"training.warm_start: model {model_id}"
    advice = "start from a model that was made with this split, leave warm_start out"
    if earlier["kind"] != split["kind"]:
        raise TrainingError(
            f"{model} was made with split.kind {earlier['kind']}, this run has {split['kind']}: it may have learned "
            f"from what is held out here; {advice}"
        )
    if split["kind"] == "time" and to_utc(earlier["cut"]) > to_utc(split["cut"]):
        raise TrainingError(
            f"{model} has learned from events up to {earlier['cut']}, but this run holds out what is after "
            f"{split['cut']}: it would be scored on what it knows; {advice}"
        )
    if uses_of_valid and not _has_left_alone(earlier, split):
        raise TrainingError(
            f"{model} was made with split.valid {earlier['valid']}, this run has {split['valid']} and uses that slice "
            f"({', '.join(uses_of_valid)}): the model may have learned from it; {advice}, or do not use the slice"
        )


def _has_left_alone(earlier: dict[str, Any], split: dict[str, Any]) -> bool:
    """Whether a model of the split ``earlier``, with no later cut, has learned nothing of the slice of ``split``."""
    was, now = earlier["valid"], split["valid"]
    if was == now:
        return True
    if split["kind"] != "time" or now is None or now["kind"] != "time":
        return False
    learned_until = was["cut"] if was and was["kind"] == "time" else earlier["cut"]
    return to_utc(learned_until) <= to_utc(now["cut"])


def _find_uses_of_valid(config: RunConfig) -> tuple[str, ...]:
    """The knobs that have something chosen or scored on the validation slice."""
    chosen = tuple(f"model.{name}: auto" for name in config.model.autos)
    is_scored = config.evaluate is not None and config.evaluate.split == "valid"
    return (*chosen, "evaluate.split: valid") if is_scored else chosen


def _read_split(lake: str, manifest: Manifest) -> dict[str, Any] | None:
    """Section `split` of the config that a model's items were made by, None for an edge list.

    Raises: TrainingError when that is not known: it may have learned from anything.
    """
    version = manifest.inputs["items"]
    try:
        record = read_record(lake, "items", version)
    except LakeError as error:
        raise _unknown_split(manifest, str(error)) from error
    if record is None:
        raise _unknown_split(
            manifest, f"version {version} of {join(lake, 'tables', 'items')} is no commit of recspark's"
        )
    return record.config.get("split")


def _unknown_split(manifest: Manifest, why: str) -> TrainingError:
    return TrainingError(
        f"training.warm_start: model {manifest.id} may have learned from what is held out here: {why}, or leave "
        f"warm_start out"
    )


def _describe_models(lake: str) -> str:
    """The published models of a lake, newest first, for a message."""
    filesystem, path = open_filesystem(join(lake, MODELS))
    entries = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    names = [e.base_name for e in entries if e.type == pafs.FileType.Directory]
    found = sorted(((m.created_at, n) for n in names if (m := read_manifest(lake, MODELS, n))), reverse=True)
    if not found:
        return "there is none yet; set training.warm_start.lake to where it is"
    shown = ", ".join(name for _, name in found[:_SHOWN])
    return f"there {'is' if len(found) == 1 else 'are'} {shown}{' and others' if len(found) > _SHOWN else ''}"
