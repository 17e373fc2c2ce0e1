"""A model folder read by other numbers of ranks than wrote it."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from recspark.config import Run
from recspark.errors import LakeError
from recspark.lake.folders import publish_folder
from recspark.training import model_files
from recspark.training.model_files import TrainedModel, find_model, own_items, read_model
from recspark.training.tables import SkipGramTables
from recspark.training.world import World
from tests.helpers.training_lake import plan_training

NUM_ITEMS, DIM = 11, 3
RANDOM = np.random.default_rng(0)
WHOLE = SkipGramTables(*RANDOM.normal(size=(2, NUM_ITEMS, DIM)).astype(np.float32), RANDOM.random(NUM_ITEMS) < 0.7)


def part_of(world: World) -> TrainedModel:
    items = own_items(NUM_ITEMS, world)
    rows = slice(items.start, items.stop)
    tables = SkipGramTables(WHOLE.input[rows], WHOLE.output[rows], WHOLE.is_trained[rows])
    return TrainedModel(tables, items, {"steps": 3}, {"metric": "cosine"})


def publish(run: Run, world_size: int) -> None:
    """What so many ranks would write, one after another."""
    worlds = [World(rank=rank, world_size=world_size) for rank in range(world_size)]
    entries = [model_files._write_part(run, part_of(world), world) for world in worlds]
    facts = {"counts": {"steps": 3}, "config": {}, "inputs": {}, "facts": {"metric": "cosine"}}
    publish_folder(run.lake, "models", run.stages["train"].id, entries, run_id="r", **facts)


@pytest.mark.parametrize(("written_by", "read_by"), list(itertools.product([1, 2, 4, 13], repeat=2)))
def test_any_number_of_ranks_reads_what_any_number_wrote(tmp_path: Path, written_by: int, read_by: int) -> None:
    run = plan_training(tmp_path)
    publish(run, written_by)
    manifest = find_model(run)
    assert manifest is not None
    parts = [read_model(run, manifest, NUM_ITEMS, World(rank=r, world_size=read_by)) for r in range(read_by)]
    assert [i for part in parts for i in part.items] == list(range(NUM_ITEMS))
    for name in ("input", "output", "is_trained"):
        found = np.concatenate([getattr(part.tables, name) for part in parts])
        np.testing.assert_array_equal(found, getattr(WHOLE, name))
    assert parts[0].counts == {"steps": 3}
    assert parts[0].facts == {"metric": "cosine"}


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    run = plan_training(tmp_path)
    publish(run, 2)
    file = Path(run.lake, "models", run.stages["train"].id, "vectors-00001-of-00002.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    manifest = find_model(run)
    assert manifest is not None
    with pytest.raises(LakeError, match=r"vectors-00001-of-00002\.safetensors: SHA-256 differs"):
        read_model(run, manifest, NUM_ITEMS, World())


def test_a_lost_file_is_no_model(tmp_path: Path) -> None:
    run = plan_training(tmp_path)
    publish(run, 2)
    Path(run.lake, "models", run.stages["train"].id, "vectors-00000-of-00002.safetensors").unlink()
    assert find_model(run) is None


def test_parts_of_another_number_of_ranks_do_not_stay(tmp_path: Path) -> None:
    run = plan_training(tmp_path)
    publish(run, 4)
    model_files.publish_model(run, part_of(World()), {}, World())
    folder = Path(run.lake, "models", run.stages["train"].id)
    assert sorted(file.name for file in folder.iterdir()) == ["manifest.json", "vectors.safetensors"]
