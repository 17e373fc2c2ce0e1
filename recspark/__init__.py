"""recspark: raw user-item events in a lake to embedding retrieval in production."""

import glob
import os
import tempfile
import zlib
from pathlib import Path

__version__ = "0.1.0"


def _kernel_version() -> str:
    """The version, and a hash of all modules with kernels: numba sees no edit of what a cached kernel calls."""
    paths = glob.glob(os.path.join(os.path.dirname(__file__), "*", "**", "*.py"), recursive=True)  # none inside a zip
    sources = (Path(path).read_bytes() for path in sorted(paths))
    kernels = b"".join(source for source in sources if b"njit" in source)
    return f"{__version__}-{zlib.crc32(kernels):08x}" if kernels else __version__


# One compile serves the driver and every Python worker only if all look for it in the same place.
os.environ.setdefault(
    "NUMBA_CACHE_DIR", os.path.join(tempfile.gettempdir(), f"recspark-numba-{os.getuid()}-{_kernel_version()}")
)
