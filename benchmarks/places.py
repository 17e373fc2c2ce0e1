"""Where benchmarks read and write."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "benchmarks" / "work"
"""Scratch: peers' environments, converted data, lakes. Not in git."""
CONF = ROOT / "conf" / "benchmarks"
RESULTS = ROOT / "benchmarks" / "results"
"""Lines that were collected, from which the reports are rendered."""


def shared_data() -> Path:
    """The public data sets: RECSPARK_DATA, or ``../shared/data`` beside the checkout."""
    return Path(os.environ.get("RECSPARK_DATA", ROOT.parent / "shared" / "data"))
