"""What item features say, as numbers: the values of categorical and multi features of table `items`.

item 17, f_category "toys", f_tags ["red", "new"]  ->  (17, 0), (17, 1), (17, 2)
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.lake.arrow import TableAt, read_table


def read_feature_values(items: TableAt, features: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """(item, value) of everything the features say, values numbered over all of them, and how many there are."""
    all_items, all_values = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    num_values = 0
    for feature in features:
        name = c.FEATURE_PREFIX + feature
        found = read_table(items, [c.ITEM_IDX, name])
        item, texts = found[c.ITEM_IDX].to_numpy().astype(np.int64), found[name].combine_chunks()
        if pa.types.is_list(texts.type):
            item, texts = item[pc.list_parent_indices(texts).to_numpy()], pc.list_flatten(texts)
        coded = texts.dictionary_encode()
        all_items.append(item[coded.is_valid().to_numpy(zero_copy_only=False)])
        all_values.append(coded.indices.drop_null().to_numpy().astype(np.int64) + num_values)
        num_values += len(coded.dictionary)
    return np.concatenate(all_items), np.concatenate(all_values), num_values
