"""What a training would take, without training: the text of a dry run.

train: skip_gram by backend cpu on cpu, 1 process (no CUDA device, one process)
  parameters   2,000 items x 64: 260,000 numbers with their optimizer state
  memory       1.0 MiB of them a process; 2 checkpoints of 1.0 MiB
  corpus       walks at version 0: 20,000 sequences, 389,120 items an epoch
  steps        100 = 5 epochs of 20 batches of 1,024 sequences
  start        model 0123456789ab: 1,950 known, 0 from_neighbours, 0 from_content, 50 fresh, 0 left_out
  neighbours   10 an item: 234.4 KiB a process, and up to 11.9 MiB while they are looked for
  ranking      target_attention, 22,000 parameters; ranks 200 items a list again
  estimate     about 4 s at 512,000 items/s (tried on the first batches)
"""

import itertools
import time
from dataclasses import replace

from recspark.config import Run
from recspark.evaluate.ranking_head_file import FACT as HEAD
from recspark.lake.arrow import list_markers
from recspark.models.sharded_embedding import Ranks
from recspark.models.skip_gram import SkipGram
from recspark.training.checkpoint_record import checkpoint_uri, find_record
from recspark.training.data import SequenceReader
from recspark.training.inputs import TrainInputs, find_inputs
from recspark.training.job import build_backend, count_threads, find_objective, open_start, pick_backend
from recspark.training.mixture import open_reader, plan_epoch
from recspark.training.objective import Place
from recspark.training.schedule import plan_schedule
from recspark.training.towers.model import count_head, count_neighbour_bytes, count_rows, settle
from recspark.training.world import World, find_launch, open_world

_TRIAL_SECONDS, _TRIAL_BYTES = 2.0, 1 << 30
_MOMENTS = 3
"""Numbers AdamW holds a parameter, itself included."""
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def describe_training(run: Run) -> str:
    """Parameters, bytes a process, steps and an estimate of the time of a run's training.

    Raises: LakeError when an input is missing; DataError or TrainingError when training could not start here.
    """
    config, model, launch = run.config.training, run.config.model, find_launch()
    inputs = find_inputs(run)
    if model.is_closed_form:
        return (
            f"train: {model.kind} in closed form, {len(inputs.num_events):,} items x {model.embedding_dim}, 1 process"
        )
    launch = replace(launch, world_size=max(launch.world_size, config.num_processes))
    name, device, reason = pick_backend(run, launch)
    reader = open_reader(inputs.open_corpora(), config.num_lanes, run.seed)
    reader.rank_lanes(0, launch.world_size)
    num_rows, num_head = count_rows(run, inputs) if model.has_towers else None, count_head(run)
    num_numbers, own_numbers = (
        _count_numbers(len(inputs.num_events), model.embedding_dim, ranks, num_rows) + _MOMENTS * num_head
        for ranks in (1, launch.world_size)
    )
    num_bytes = 4 * own_numbers
    batches = reader.steps_per_epoch(config.batch_sequences)
    plan_schedule(config, batches)
    if not model.has_towers:
        find_objective(run, inputs)
    start = _describe_start(run, inputs)
    num_values = _count_values(inputs)
    estimate = _estimate(run, inputs, reader, config.epochs * num_values, name, device, num_bytes)
    processes = f"{launch.world_size} process{'es' if launch.world_size > 1 else ''}"
    lines = {
        "parameters": f"{f'{num_rows:,} rows' if num_rows else f'{len(inputs.num_events):,} items'} x "
        f"{model.embedding_dim}: {num_numbers:,} numbers with their optimizer state",
        "memory": f"{_show_bytes(num_bytes)} of them a process; {config.keep_checkpoints} checkpoints of "
        f"{_show_bytes(4 * num_numbers)}",
        "corpus": f"{_name_corpora(inputs)}: {reader.num_rows:,} sequences, {num_values:,} items an epoch",
        "steps": f"{config.epochs * batches:,} = {config.epochs} epochs of {batches:,} batches of "
        f"{config.batch_sequences:,} sequences{_describe_resume(run)}",
        **start,
        **_describe_neighbours(run, inputs),
        **_describe_head(run, num_head),
        "estimate": estimate,
    }
    head = f"train: {model.kind} by backend {name} on {device}, {processes} ({reason})"
    return "\n".join([head, *(f"  {title:<12} {text}" for title, text in lines.items())])


def _count_numbers(num_items: int, dim: int, world_size: int, num_rows: int | None) -> int:
    """Float32 numbers of the largest process's part of the model, laid out without memory; ``num_rows`` are those of a
    tower model's table.
    """
    if num_rows is not None:
        return -(-num_rows // world_size) * (2 * dim + 2)
    ranks: Ranks = World(world_size=world_size, device="meta")
    model = SkipGram(num_items, dim, ranks, lambda ids: None)  # type: ignore[arg-type, return-value]
    return sum(tensor.numel() for tensor in model.state().values())


def _name_corpora(inputs: TrainInputs) -> str:
    names = [
        f"{name} at version {table.version}" + (f" x {weight:g}" if len(inputs.corpora) > 1 else "")
        for name, (table, weight) in inputs.corpora.items()
    ]
    return ", ".join(names)


def _count_values(inputs: TrainInputs) -> int:
    """Items of all sequences of an epoch; of the first where a table's epochs differ, by mean lengths in a mixture."""
    num_rows, num_values, weights = [], [], []
    for files, weight in inputs.open_corpora():
        groups = files.of_epoch(0)
        num_rows.append(sum(group.num_rows for group in groups))
        # Of a history only the train part is read: together all train events.
        num_values.append(int(inputs.num_events.sum()) if files.prefix else sum(group.num_values for group in groups))
        weights.append(weight)
    taken = plan_epoch(num_rows, weights)
    return round(sum(rows * values / of for rows, values, of in zip(taken, num_values, num_rows, strict=True)))


def _describe_start(run: Run, inputs: TrainInputs) -> dict[str, str]:
    """The line of a warm start, none without one."""
    start = open_start(run, inputs)
    if start is None:
        return {}
    return {"start": f"model {start.model.model_id}: {', '.join(f'{n:,} {of}' for of, n in start.counts.items())}"}


def _describe_neighbours(run: Run, inputs: TrainInputs) -> dict[str, str]:
    """The line of neighbours of items, none without them."""
    count = settle(run).item.neighbours.count
    if not count:
        return {}
    kept, meanwhile = (_show_bytes(size) for size in count_neighbour_bytes(run, inputs))
    return {"neighbours": f"{count} an item: {kept} a process, and up to {meanwhile} while they are looked for"}


def _describe_head(run: Run, num_parameters: int) -> dict[str, str]:
    """The line of a ranking head, none without one."""
    ranking = run.config.model.towers.ranking
    if not num_parameters:
        return {}
    text = f"{ranking.kind}, {num_parameters:,} parameters; ranks {ranking.candidates:,} items a list again"
    return {"ranking": text}


def _describe_resume(run: Run) -> str:
    record = find_record(checkpoint_uri(run))
    return f"; goes on at step {record.step:,}" if record else ""


def _estimate(
    run: Run, inputs: TrainInputs, reader: SequenceReader, num_values: int, name: str, device: str, num_bytes: int
) -> str:
    """How long the rest may take, by what is nearest: this training's checkpoint, an earlier training, a trial."""
    record = find_record(checkpoint_uri(run))
    progress = record.state if record else {}
    if progress.get("seconds"):
        left, rate, source = num_values - progress["tokens"], progress["tokens"] / progress["seconds"], "so far"
        return _show_time(left, rate, f"as {source}, by its checkpoint")
    kind, dim = run.config.model.kind, run.config.model.embedding_dim
    for made in list_markers(run.lake, "item_embeddings", "train"):
        seconds, tokens = made.counts.get("seconds"), made.counts.get("tokens")
        told = made.facts["backend"], made.facts["model_kind"], HEAD in made.facts
        if seconds and tokens and told == (name, kind, run.config.model.has_ranking_head):
            rate = tokens / seconds * made.facts["embedding_dim"] / dim
            return _show_time(num_values, rate, f"as model {made.facts['model_id']} of this lake, by dimension")
    if num_bytes > _TRIAL_BYTES or run.config.training.num_processes > 1:
        return "none: this lake has no finished training by this backend to go by"
    return _show_time(num_values, _try_batches(run, inputs, reader, name, device), "tried on the first batches")


def _try_batches(run: Run, inputs: TrainInputs, reader: SequenceReader, name: str, device: str) -> float:
    """Items a second of some steps that leave nothing behind; the first, which compiles, does not count."""
    config, launch = run.config.training, find_launch()
    with open_world(launch, device, config.timeout_seconds) as world:
        backend = build_backend(run, inputs, name, world, count_threads(config, launch))
        batches = reader.read(0, 0, config.batch_sequences, range(reader.num_lanes))
        started, num_values = 0.0, 0
        for step, batch in enumerate(itertools.islice(batches, 1000)):
            backend.step(backend.prepare(batch, Place(0, step, step, 0)), config.learning_rate)
            if step == 0:
                backend.take_loss()
                started = time.monotonic()
                continue
            num_values += int(batch.offsets[-1] - batch.offsets[0])
            if time.monotonic() - started > _TRIAL_SECONDS:
                break
        backend.take_loss()
        return num_values / max(time.monotonic() - started, 1e-9)


def _show_time(num_values: int, rate: float, source: str) -> str:
    if rate <= 0:
        return "none: the corpus has too few batches to try it"
    seconds = max(num_values, 0) / rate
    text = f"{seconds:,.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min" if seconds < 7200 else ""
    return f"about {text or f'{seconds / 3600:,.1f} h'} at {rate:,.0f} items/s ({source})"


def _show_bytes(num_bytes: float) -> str:
    unit = 0
    while num_bytes >= 1024 and unit < len(_UNITS) - 1:
        num_bytes, unit = num_bytes / 1024, unit + 1
    return f"{num_bytes:,.1f} {_UNITS[unit]}" if unit else f"{num_bytes:,.0f} {_UNITS[0]}"
