"""faiss as this package sees it: untyped, because the stubs it ships miss classes and arguments that exist."""

from typing import Any

import faiss as _faiss

faiss: Any = _faiss

FaissIndex = Any
"""Any of faiss's index classes."""


def inner_index(index: FaissIndex) -> FaissIndex:
    """The index behind a rotation, the index itself without one. It lives as long as the outer one."""
    return faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index


def rotation_of(index: FaissIndex) -> Any | None:
    """The rotation in front of an index, None without one."""
    is_rotated = isinstance(index, faiss.IndexPreTransform)
    return faiss.downcast_VectorTransform(index.chain.at(0)) if is_rotated else None
