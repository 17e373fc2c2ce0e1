"""models/<model_id>/user_tower.npz: a trained user tower as plain numpy arrays, for all that serves or audits it.

`tower.<name>` the arrays of the tower as torch names them; `static` float32 [U, D], `has_static` uint8 [U], `missing`
float32 [D] where users have something of their own. What is done with them is in the manifest's facts, `user_tower`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspark.contracts.manifest import Manifest
from recspark.errors import LakeError
from recspark.evaluate.user_tower import StoredUserTower, UserTowerSpec
from recspark.lake.arrow import TableAt
from recspark.lake.folders import check_file, read_manifest
from recspark.lake.storage import readable_copy

FACT, FILE = "user_tower", "user_tower.npz"
_MODELS, _PREFIX = "models", "tower."


def read_user_tower(lake: str, model_id: str) -> StoredUserTower:
    """A published model's user tower.

    Raises: LakeError when the file is not there, or its SHA-256 is not the manifest's.
    """
    manifest = read_manifest(lake, _MODELS, model_id)
    entries = [file for file in manifest.files if file.path == FILE] if manifest else []
    if manifest is None or not entries:
        raise LakeError(
            f"{lake}/{_MODELS}/{model_id}: no {FILE}, which makes this model's vectors of users; run the train stage "
            f"again"
        )
    with readable_copy(check_file(lake, _MODELS, model_id, entries[0])) as path, np.load(path) as found:
        return _parse(manifest, dict(found))


def find_event_columns(embeddings: TableAt) -> list[str]:
    """The columns of `user_histories` that serving a model needs beside items; none for models without a user tower."""
    facts = embeddings.record.facts.get(FACT)
    return UserTowerSpec.from_facts(facts).event_columns if facts else []


def _parse(manifest: Manifest, arrays: dict[str, NDArray[Any]]) -> StoredUserTower:
    spec = UserTowerSpec.from_facts(manifest.facts[FACT])
    own = {name.removeprefix(_PREFIX): array for name, array in arrays.items() if name.startswith(_PREFIX)}
    if "static" not in arrays:
        return StoredUserTower(spec, own)
    return StoredUserTower(spec, own, arrays["static"], arrays["has_static"] > 0, arrays["missing"])
