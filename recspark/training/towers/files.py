"""What lies beside a tower model's vectors of items, in models/<model_id>:

user_tower.npz   what makes a user's vector of a history: plain numpy arrays by name, those of the tower as torch names
                 them (`tower.*`), and `static` float32 [U, D], `has_static` uint8 [U], `missing` float32 [D] where
                 users have something of their own; what is done with them is in the manifest's facts
ranking_head.npz where the model has a ranking head: its arrays as torch names them
item_tower.npz   the item tower's arrays, for `recspark export --towers`; of one with neighbours also `inputs` float32
                 [V, D], by which it reads them
features.json    how features became numbers: {"item": [{"name", "kind", "vocabulary" or "edges" or "length"}],
                 "user": [...]}
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from recspark.contracts.manifest import FileEntry, Manifest
from recspark.evaluate.ranking_head_file import FILE as HEAD_FILE
from recspark.evaluate.user_tower_file import FILE
from recspark.lake.folders import check_file, folder_uri, hash_file
from recspark.lake.storage import readable_copy, writable_folder
from recspark.training.starting_model import MODELS
from recspark.training.towers.result import TowerResult

ITEM_FILE, FEATURES = "item_tower.npz", "features.json"


def write_towers(lake: str, model_id: str, result: TowerResult) -> list[FileEntry]:
    """Writes the files into a model's folder; their entries for the manifest."""
    folder, users = folder_uri(lake, MODELS, model_id), result.users
    arrays = {f"tower.{name}": array for name, array in users.arrays.items()}
    if users.static is not None and users.has_static is not None and users.missing is not None:
        arrays |= {"static": users.static, "has_static": users.has_static.astype(np.uint8), "missing": users.missing}
    with writable_folder(folder) as local:
        np.savez(os.path.join(local, FILE), **arrays)  # type: ignore[arg-type]
        np.savez(os.path.join(local, ITEM_FILE), **result.item_arrays)  # type: ignore[arg-type]
        Path(local, FEATURES).write_text(json.dumps(result.features))
        if result.head:
            np.savez(os.path.join(local, HEAD_FILE), **result.head.arrays)  # type: ignore[arg-type]
    names = [FILE, ITEM_FILE, FEATURES, *([HEAD_FILE] if result.head else [])]
    return [hash_file(folder, name) for name in names]


def read_item_tower(lake: str, manifest: Manifest) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """(arrays by name, features) of a published model.

    Raises: LakeError when a file's SHA-256 is not the manifest's.
    """
    entries = {file.path: file for file in manifest.files}
    with readable_copy(check_file(lake, MODELS, manifest.id, entries[ITEM_FILE])) as path, np.load(path) as found:
        arrays = dict(found)
    with readable_copy(check_file(lake, MODELS, manifest.id, entries[FEATURES])) as path:
        features: dict[str, list[dict[str, Any]]] = json.loads(Path(path).read_text())
    return arrays, features
