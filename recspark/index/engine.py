"""faiss as this package sees it: untyped, because the stubs it ships miss classes and arguments that exist."""

from typing import Any

import faiss as _faiss

faiss: Any = _faiss

FaissIndex = Any
"""Any of faiss's index classes."""
