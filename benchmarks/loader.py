"""`loader`: Delta to torch tensors on one core, against a row-wise DataLoader over the same table.

The project reads the epoch through its lanes, shuffled, files decoded anew. The peer holds the table in memory (reading
it is timed for both): a map-style dataset that makes a tensor of each row, shuffled, joined by a collate function. Once
as it is usually written, a row of the Arrow table at a time, and once tuned: slices of one decoded NumPy buffer.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.lines import find_versions, speed_line
from benchmarks.paired import Paired, Timing, run_pairs, timed
from recspark.config import RunConfig, plan_run
from recspark.contracts.tables import WALKS
from recspark.lake.arrow import TableAt, find_table, open_table, write_table
from recspark.training.data import LaneReader, open_sequences

WALK_LENGTH = 20
BATCH_ROWS = 1024
_FILES = 4


def run(quick: bool, command: str) -> Iterator[dict[str, Any]]:
    """A line for each way to write the peer."""
    num_walks, runs = (100_000, 2) if quick else (1_000_000, 5)
    pa.set_cpu_count(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        table = write_walks(Path(folder), num_walks)
        read_lanes(table)  # compiles the gather kernel
        for peer, rows_of in PEERS.items():
            paired = run_pairs(lambda rows_of=rows_of: read_rows(table, rows_of), lambda: read_lanes(table), runs)  # type: ignore[misc]
            yield _line(peer, paired, num_walks, command)


def _line(peer: str, paired: Paired, num_walks: int, command: str) -> dict[str, Any]:
    num_values = num_walks * WALK_LENGTH
    rates = {side: round(num_values / paired.median_seconds(side)["cpu"]) for side in ("project", "peer")}  # type: ignore[arg-type]
    work = {"sequences": num_walks, "values": num_values, "batch_sequences": BATCH_ROWS, "cores": 1}
    versions = find_versions("deltalake", "pyarrow", "torch", "numpy", "numba")
    return speed_line("loader", peer, paired, work, versions, command, values_per_core_second=rates)


def write_walks(folder: Path, num_walks: int) -> TableAt:
    """A walks table of Zipf-popular items in a few files."""
    run = plan_run(RunConfig.model_validate(_settings(folder)), {"fingerprint": "loader"})
    random = np.random.default_rng(0)
    values = (random.pareto(1.2, num_walks * WALK_LENGTH) * 100).astype(np.int64) % 50_000
    offsets = np.arange(0, len(values) + 1, WALK_LENGTH, dtype=np.int32)
    rows = {
        "epoch": np.zeros(num_walks, np.int32),
        "shard": np.arange(num_walks, dtype=np.int32) * _FILES // num_walks,
        "start_idx": values[::WALK_LENGTH].astype(np.int32),
        "walk": pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.astype(np.int32))),
    }
    write_table(run.lake, WALKS, pa.table(rows), run.record("walks", is_marker=True))
    return find_table(run.lake, run.stages["walks"], "walks")


def read_lanes(table: TableAt) -> Timing:
    """An epoch through the project's reader, in this thread."""
    with timed() as timing:
        reader = LaneReader(open_sequences(table, "walk"), 64, seed=1, prefetch=0)
        num_values = 0
        for batch in reader.read(0, 0, BATCH_ROWS, range(reader.num_lanes)):
            num_values += torch.from_numpy(batch.values).numel()
    _check(num_values, reader.num_rows)
    return timing


class _ArrowRows(torch.utils.data.Dataset[torch.Tensor]):
    """One row of the Arrow column an index."""

    def __init__(self, walks: pa.ListArray) -> None:
        self._walks = walks

    def __len__(self) -> int:
        return len(self._walks)

    def __getitem__(self, row: int) -> torch.Tensor:
        return torch.tensor(self._walks[row].as_py())


class _SliceRows(torch.utils.data.Dataset[torch.Tensor]):
    """One slice of the decoded values an index."""

    def __init__(self, walks: pa.ListArray) -> None:
        self._values, self._offsets = torch.from_numpy(walks.values.to_numpy().copy()), walks.offsets.to_pylist()

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> torch.Tensor:
        return self._values[self._offsets[row] : self._offsets[row + 1]]


PEERS: dict[str, Any] = {
    "row-wise DataLoader": _ArrowRows,
    "row-wise DataLoader, slices of one buffer": _SliceRows,
}


def _collate(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat(rows), torch.tensor([len(row) for row in rows])


def read_rows(table: TableAt, rows_of: Any) -> Timing:
    """An epoch through torch's DataLoader, row by row."""
    with timed() as timing:
        delta = open_table(table.lake, table.name, table.version)
        rows = rows_of(delta.to_pyarrow_table(columns=["walk"])["walk"].combine_chunks())
        num_values = 0
        for values, _ in torch.utils.data.DataLoader(rows, BATCH_ROWS, shuffle=True, collate_fn=_collate):
            num_values += values.numel()
    _check(num_values, len(rows))
    return timing


def _check(num_values: int, num_rows: int) -> None:
    """The remainder that does not divide into lanes is left to a later epoch: fewer rows than lanes."""
    assert (num_rows - 64) * WALK_LENGTH < num_values <= num_rows * WALK_LENGTH


def _settings(folder: Path) -> dict[str, Any]:
    return {
        "paths": {"lake": str(folder / "lake")},
        "source": {"kind": "edges", "path": "none.csv", "format": "csv", "directed": False},
        "evaluate": None,
        "index": None,
    }
