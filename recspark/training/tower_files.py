"""models/<model_id>/user_tower.npz: what makes a user's vector of a history, beside the items' vectors.

Plain numpy arrays by name: those of the tower as torch names them, and `static` float32 [U, D], `has_static` uint8 [U],
`missing` float32 [D] where users have something of their own. What is done with them is in the manifest's facts,
`user_tower`.
"""

import os
from typing import Any

import numpy as np

from recspark.contracts.manifest import FileEntry, Manifest
from recspark.evaluate.user_tower import UserTowerSpec
from recspark.lake.folders import check_file, folder_uri, hash_file
from recspark.lake.storage import readable_copy, writable_folder
from recspark.training.starting_model import MODELS
from recspark.training.tower_result import UserSide

FILE = "user_tower.npz"


def write_user_side(lake: str, model_id: str, users: UserSide) -> FileEntry:
    """Writes the file into a model's folder; its entry for the manifest."""
    arrays = {f"tower.{name}": array for name, array in users.arrays.items()}
    if users.static is not None and users.has_static is not None and users.missing is not None:
        arrays |= {"static": users.static, "has_static": users.has_static.astype(np.uint8), "missing": users.missing}
    folder = folder_uri(lake, MODELS, model_id)
    with writable_folder(folder) as local:
        np.savez(os.path.join(local, FILE), **arrays)  # type: ignore[arg-type]
    return hash_file(folder, FILE)


def read_user_side(lake: str, manifest: Manifest) -> UserSide:
    """What `write_user_side` wrote.

    Raises: LakeError when the file's SHA-256 is not the manifest's.
    """
    (entry,) = [file for file in manifest.files if file.path == FILE]
    with readable_copy(check_file(lake, MODELS, manifest.id, entry)) as path, np.load(path) as found:
        arrays: dict[str, Any] = dict(found)
    own = {name.removeprefix("tower."): array for name, array in arrays.items() if name.startswith("tower.")}
    spec = UserTowerSpec.from_facts(manifest.facts["user_tower"])
    if "static" not in arrays:
        return UserSide(spec, own)
    return UserSide(spec, own, arrays["static"], arrays["has_static"] > 0, arrays["missing"])
