"""recspark: raw user-item events in a lake to embedding retrieval in production."""

import os
import tempfile

__version__ = "0.1.0"

# One compile serves the driver and every Python worker only if all look for it in the same place.
os.environ.setdefault(
    "NUMBA_CACHE_DIR", os.path.join(tempfile.gettempdir(), f"recspark-numba-{os.getuid()}-{__version__}")
)
