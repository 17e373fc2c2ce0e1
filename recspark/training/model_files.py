"""models/<model_id>: the trained tables as every rank has them, in one safetensors file a rank, and their manifest.

models/<model_id>/vectors.safetensors                  by one rank: input, output float32 [V, dim] in item_idx order,
                                                       is_trained uint8 [V], and for a warm start input_squares,
                                                       output_squares float32 [V], where it was learned in steps
models/<model_id>/vectors-00000-of-00004.safetensors   by four: the first quarter of these rows, and so on
models/<model_id>/manifest.json                        counts, config, input versions, facts (metric, backend ...)
"""

import os
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow.fs as pafs
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from recspark.config import Run
from recspark.contracts.manifest import FileEntry, Manifest
from recspark.contracts.shards import shard_range
from recspark.errors import LakeError
from recspark.evaluate.user_tower_file import FACT, read_user_tower
from recspark.faults import fault_point
from recspark.lake.folders import (
    check_file,
    find_flaw,
    folder_uri,
    hash_file,
    publish_folder,
    read_manifest,
    unpublish_folder,
)
from recspark.lake.storage import open_filesystem, readable_copy, writable_folder
from recspark.training.starting_model import MODELS
from recspark.training.tables import SkipGramTables
from recspark.training.towers.files import write_towers
from recspark.training.towers.result import TowerResult
from recspark.training.world import World

_STEM = "vectors"


@dataclass(frozen=True)
class TrainedModel:
    """A finished training as this rank has it: its rows ``items``, what was counted, what readers need to know.

    ``towers`` is all of a tower model, of which every rank makes vectors of users.
    """

    tables: SkipGramTables
    items: range
    counts: dict[str, Any]
    facts: dict[str, Any]
    towers: TowerResult | None = None


def own_items(num_items: int, world: World) -> range:
    """The items whose rows this rank writes."""
    return shard_range(world.rank, world.world_size, num_items)


def find_model(run: Run) -> Manifest | None:
    """The manifest of a model that was published before its embeddings were committed, None without a whole one."""
    model_id = run.stages["train"].id
    return None if find_flaw(run.lake, MODELS, model_id) else read_manifest(run.lake, MODELS, model_id)


def read_model(run: Run, manifest: Manifest, num_items: int, world: World) -> TrainedModel:
    """This rank's rows of a published model, whatever number of ranks wrote it.

    Raises: LakeError when a file's SHA-256 is not the manifest's.
    """
    if FACT in manifest.facts:
        return _read_towers(run, manifest, num_items, world)
    items = own_items(num_items, world)
    return TrainedModel(_read_tables(run, manifest, num_items, items), items, manifest.counts, manifest.facts)


def _read_towers(run: Run, manifest: Manifest, num_items: int, world: World) -> TrainedModel:
    """A published tower model, whole."""
    tables = _read_tables(run, manifest, num_items, range(num_items))
    one_sided = manifest.facts["readout"] == "output"
    query = tables.output if one_sided else tables.input
    result = TowerResult(query, tables.output, tables.is_trained, read_user_tower(run.lake, manifest.id))
    items = own_items(num_items, world)
    return TrainedModel(result.tables_of(items), items, manifest.counts, manifest.facts, result)


def _read_tables(run: Run, manifest: Manifest, num_items: int, items: range) -> SkipGramTables:
    """A range of a published model's rows."""
    files = sorted((file for file in manifest.files if file.path.startswith(_STEM)), key=lambda file: file.path)
    held = [shard_range(part, len(files), num_items) for part in range(len(files))]
    shared = [range(max(part.start, items.start), min(part.stop, items.stop)) for part in held]
    wanted = [part for part in range(len(files)) if shared[part]] or [0]  # where there are more ranks than items
    found = []
    for part in wanted:
        path = check_file(run.lake, MODELS, manifest.id, files[part])
        found.append(_read_rows(path, len(shared[part]), shared[part].start - held[part].start))
    arrays = {name: np.concatenate([rows[name] for rows in found]) for name in found[0]}
    return SkipGramTables(is_trained=arrays.pop("is_trained") > 0, **arrays)


def _read_rows(uri: str, num_rows: int, start: int) -> dict[str, NDArray[Any]]:
    """Rows of all arrays of one file."""
    with readable_copy(uri) as path, safe_open(path, "numpy") as file:
        if num_rows == 0:  # which a slice refuses to be
            return {name: file.get_tensor(name)[:0] for name in file.keys()}  # noqa: SIM118
        return {name: file.get_slice(name)[start : start + num_rows] for name in file.keys()}  # noqa: SIM118


def publish_model(run: Run, model: TrainedModel, versions: dict[str, int], world: World) -> bool:
    """Writes the model folder, from whose manifest on the training need not be repeated. Collective.

    True where it holds what the manifest of a damaged one before it says: committed embeddings then still are its.
    """
    stage = run.stages["train"]
    before = _read_old_entries(run)
    world.barrier()
    if world.rank == 0:
        unpublish_folder(run.lake, MODELS, stage.id)
        _remove_parts(folder_uri(run.lake, MODELS, stage.id))
    world.barrier()
    entries = world.gather_objects(_write_part(run, model, world))
    if world.rank == 0 and model.towers:
        entries += write_towers(run.lake, stage.id, model.towers)
    if world.rank == 0:
        publish_folder(
            run.lake, MODELS, stage.id, entries, counts=model.counts, config=stage.sections, inputs=versions,
            facts=model.facts, run_id=run.run_id,
        )  # fmt: skip
        fault_point("train.model")
    return entries == before


def _write_part(run: Run, model: TrainedModel, world: World) -> FileEntry:
    found = {field.name: getattr(model.tables, field.name) for field in fields(model.tables)}
    arrays = {name: np.ascontiguousarray(array) for name, array in found.items() if array is not None}
    arrays["is_trained"] = arrays["is_trained"].astype(np.uint8)
    place = "" if world.world_size == 1 else f"-{world.rank:05d}-of-{world.world_size:05d}"
    name, folder = f"{_STEM}{place}.safetensors", folder_uri(run.lake, MODELS, run.stages["train"].id)
    with writable_folder(folder) as local:
        save_file(arrays, os.path.join(local, name))
    return hash_file(folder, name)


def _remove_parts(uri: str) -> None:
    """Files that an earlier attempt, on perhaps another number of ranks, has left."""
    filesystem, path = open_filesystem(uri)
    for info in filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True)):
        if info.is_file and info.base_name.startswith(_STEM):
            filesystem.delete_file(info.path)


def _read_old_entries(run: Run) -> list[FileEntry]:
    """What the manifest that is to be replaced says of the vectors."""
    try:
        manifest = read_manifest(run.lake, MODELS, run.stages["train"].id)
        return list(manifest.files) if manifest else []
    except LakeError:
        return []
