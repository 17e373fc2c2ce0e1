"""A model's item vectors as files for TensorBoard's projector (also https://projector.tensorflow.org, "Load").

vectors.tsv            0.12<TAB>-0.40 ...                       one row an item, most events first
metadata.tsv           item_id<TAB>num_events<TAB>title ...     a header, then the same items
projector_config.pbtxt names both for `tensorboard --logdir FOLDER`

The vectors are column `vector` of item_embeddings as it is: neither a score's bias nor query vectors are written.
"""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from recspark.config import Run
from recspark.contracts import columns as c
from recspark.index.item_vectors import read_item_vectors
from recspark.lake.arrow import find_table, read_table

VECTORS, METADATA, CONFIG = "vectors.tsv", "metadata.tsv", "projector_config.pbtxt"


def write_projector(run: Run, folder: Path, max_items: int) -> int:
    """Writes the files of a trained run for its ``max_items`` items with most train events; how many there are.

    Raises: LakeError when the training has not finished.
    """
    vectors = read_item_vectors(find_table(run.lake, run.stages["train"], "item_embeddings"), with_ids=True)
    items = read_table(find_table(run.lake, run.producer("items"), "items")).sort_by(c.ITEM_IDX)
    items = items.take(pa.array(vectors.item_idx))
    order = np.argsort(-items[c.NUM_EVENTS].to_numpy(), kind="stable")[:max_items]
    features = [name for name in items.column_names if name.startswith("f_")]
    shown = items.select([c.ITEM_ID, c.NUM_EVENTS, *features]).take(pa.array(order))
    folder.mkdir(parents=True, exist_ok=True)
    np.savetxt(folder / VECTORS, vectors.vectors[order], fmt="%.6g", delimiter="\t")
    _write_metadata(folder / METADATA, shown)
    (folder / CONFIG).write_text(
        f'embeddings {{\n  tensor_name: "{vectors.model_id}"\n  tensor_path: "{VECTORS}"\n'
        f'  metadata_path: "{METADATA}"\n}}\n'
    )
    return len(order)


def _write_metadata(path: Path, items: pa.Table) -> None:
    """A header and one line an item; tabs and line breaks inside values become spaces."""
    names = [name.removeprefix("f_") for name in items.column_names]
    with path.open("w", encoding="utf-8") as stream:
        stream.write("\t".join(names) + "\n")
        for row in items.to_pylist():
            stream.write("\t".join(_to_cell(value) for value in row.values()) + "\n")


def _to_cell(value: object) -> str:
    """A value on one line; lists are joined."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
    return re.sub(r"\s+", " ", text)
