"""Ids that look like a mistyped one, at a cost that does not grow with the catalogue."""

import difflib

import pyarrow as pa
import pyarrow.compute as pc

MAX_PICKED = 1000
"""Ids taken from each scan; difflib compares no more than those of seven (tens of milliseconds)."""


def find_close_matches(ids: pa.Array | pa.ChunkedArray, wanted: str, num_matches: int = 3) -> list[str]:
    """Up to ``num_matches`` ids like ``wanted``, the closest first; none where none is close.

    Candidates are picked by vectorised scans first: ids that hold the text, share its end or its start (long starts
    before short ones), then the front of ``ids``, which holds the most popular ones. Case is ignored.
    """
    lowered, text = pc.utf8_lower(ids), wanted.strip().lower()
    if not text:
        return []
    half = len(text) // 2 + 1
    scans = [pc.match_substring(lowered, text), pc.ends_with(lowered, text[-half:])]
    lengths = sorted({max(length, 1) for length in (len(text) - 1, len(text) - 2, half, 1)}, reverse=True)
    scans += [pc.starts_with(lowered, text[:length]) for length in lengths]
    picks = [ids.filter(scan).slice(0, MAX_PICKED) for scan in scans] + [ids.slice(0, MAX_PICKED)]
    compared = dict.fromkeys(i for pick in picks for i in pick.to_pylist())
    by_lower = {i.lower(): i for i in reversed(list(compared))}
    close = difflib.get_close_matches(text, by_lower, num_matches, 0.6)
    return [by_lower[i] for i in close]
