"""models/<model_id>/ranking_head.npz: a trained ranking head as plain numpy arrays, named as torch names them.

What is done with them is in the manifest's facts, `ranking_head`; models without a head have neither.
"""

import numpy as np

from recspark.errors import LakeError
from recspark.evaluate.ranking_head import RankingHeadSpec, StoredRankingHead
from recspark.lake.folders import check_file, read_manifest
from recspark.lake.storage import readable_copy

FACT, FILE = "ranking_head", "ranking_head.npz"
_MODELS = "models"


def read_ranking_head(lake: str, model_id: str) -> StoredRankingHead:
    """A published model's ranking head.

    Raises: LakeError when the file is not there, or its SHA-256 is not the manifest's.
    """
    manifest = read_manifest(lake, _MODELS, model_id)
    entries = [file for file in manifest.files if file.path == FILE] if manifest else []
    if manifest is None or not entries:
        raise LakeError(
            f"{lake}/{_MODELS}/{model_id}: no {FILE}, which this model's lists are ranked by; run the train stage again"
        )
    with readable_copy(check_file(lake, _MODELS, model_id, entries[0])) as path, np.load(path) as found:
        return StoredRankingHead(RankingHeadSpec.from_facts(manifest.facts[FACT]), dict(found))
