"""From a history to what is asked of the index: a user's vector, or several.

    history [[17, 4, 9]], user_idx [812]   ->   [1, D]           one vector a user
                                           ->   [1, K, D]        interests; an item's score is that of the nearest

Models without a user tower take the mean of unit query vectors (`user_vectors`); a tower is evaluated in numpy from the
file beside the model's vectors, so that nothing that serves imports torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recspark.errors import LakeError
from recspark.evaluate.ragged import IntArray, Ragged
from recspark.evaluate.top_k import FloatArray
from recspark.evaluate.user_tower import UserTowerSpec, encode_users
from recspark.index.item_vectors import ItemVectors
from recspark.lake.arrow import TableAt
from recspark.lake.folders import check_file, read_manifest
from recspark.lake.storage import readable_copy
from recspark.retrieval.user_vectors import build_user_vectors, keep_known

UNKNOWN_USER = -1
"""The user_idx of someone whom the lake does not know."""
_MODELS, _FILE = "models", "user_tower.npz"


class UserEncoder(Protocol):
    """What makes users' vectors."""

    def encode(self, history: Ragged, user_idx: IntArray | None = None) -> FloatArray:
        """[U, D] or [U, K, D] of histories of item_idx, one row a user, the newest last; who they are where known."""


@dataclass(frozen=True)
class MeanEncoder:
    """The mean of the unit query vectors of a history."""

    vectors: ItemVectors

    def encode(self, history: Ragged, user_idx: IntArray | None = None) -> FloatArray:
        """[U, D]; who the users are does not matter."""
        return build_user_vectors(self.vectors, history)


@dataclass(frozen=True)
class TowerEncoder:
    """A trained user tower over the items' query vectors. ``static`` [U, D], ``has_static`` bool [U] and ``missing``
    [D] where users have something of their own: an id, features.
    """

    vectors: ItemVectors
    spec: UserTowerSpec
    arrays: Mapping[str, NDArray[Any]]
    static: FloatArray | None = None
    has_static: NDArray[np.bool_] | None = None
    missing: FloatArray | None = None

    def encode(self, history: Ragged, user_idx: IntArray | None = None) -> FloatArray:
        """[U, D] or [U, K, D]; zeros for a user of whom nothing is known."""
        known = keep_known(self.vectors, history)
        rows = Ragged(known.offsets, self.vectors.rows_of(known.values).astype(np.int32))
        users = np.full(len(history), UNKNOWN_USER) if user_idx is None else np.asarray(user_idx)
        static, has_static = self._find_static(users)
        return encode_users(self.spec, self.arrays, self.vectors.queries, rows, static, has_static)

    def _find_static(self, users: IntArray) -> tuple[FloatArray | None, NDArray[np.bool_] | None]:
        if self.static is None or self.has_static is None or self.missing is None:
            return None, None
        is_there = (users >= 0) & (users < len(self.static))
        place = np.where(is_there, users, 0)
        static = np.where(is_there[:, None], self.static[place], self.missing)
        return static.astype(np.float32), is_there & self.has_static[place]


def open_user_encoder(vectors: ItemVectors, embeddings: TableAt) -> UserEncoder:
    """The encoder of a model whose vectors were read from a pinned `item_embeddings`.

    Raises: LakeError when its user tower is lost or damaged.
    """
    facts = embeddings.record.facts
    if "user_tower" not in facts:
        return MeanEncoder(vectors)
    spec, arrays = UserTowerSpec.from_facts(facts["user_tower"]), _read_arrays(embeddings.lake, vectors.model_id)
    own = {name.removeprefix("tower."): array for name, array in arrays.items() if name.startswith("tower.")}
    if "static" not in arrays:
        return TowerEncoder(vectors, spec, own)
    return TowerEncoder(vectors, spec, own, arrays["static"], arrays["has_static"] > 0, arrays["missing"])


def _read_arrays(lake: str, model_id: str) -> dict[str, NDArray[Any]]:
    manifest = read_manifest(lake, _MODELS, model_id)
    entries = [file for file in manifest.files if file.path == _FILE] if manifest else []
    if manifest is None or not entries:
        raise LakeError(
            f"{lake}/{_MODELS}/{model_id}: no {_FILE}, which makes this model's vectors of users; run the train stage "
            f"again"
        )
    with readable_copy(check_file(lake, _MODELS, model_id, entries[0])) as path, np.load(path) as found:
        return dict(found)
