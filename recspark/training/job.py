"""The stage `train`: walks or sessions -> checkpoints -> models/<model_id>, user_embeddings, item_embeddings.

One process or many (torchrun): all ranks run `train` and write what is theirs; rank 0 speaks and commits.
"""

import time
from dataclasses import fields
from functools import partial
from typing import Any

from recspark.config import Run
from recspark.config.schema import TrainingConfig
from recspark.cpus import count_cpus
from recspark.errors import RecsparkError
from recspark.lake.arrow import find_done
from recspark.lake.folders import find_flaw
from recspark.logs import log
from recspark.training.backend import CPU, TORCH, Backend, StartsWarm, TowerTraining, choose_backend
from recspark.training.checkpoint import Checkpoints
from recspark.training.checkpoint_record import checkpoint_uri, find_record
from recspark.training.closed_form import fit_closed_form
from recspark.training.data import SequenceReader
from recspark.training.earlier_model import open_earlier_model
from recspark.training.export import write_embeddings
from recspark.training.groups import read_groups
from recspark.training.inputs import TrainInputs, find_inputs
from recspark.training.mixture import open_reader
from recspark.training.model_files import TrainedModel, find_model, own_items, publish_model, read_model
from recspark.training.negatives import leave_out_rare
from recspark.training.objective import Objective, build_objective
from recspark.training.readout_search import find_readout
from recspark.training.starting_model import MODELS, check_start
from recspark.training.stopping import EXIT_CHECKPOINTED, EXIT_TERMINATED, Terminated, ending_at_once
from recspark.training.towers.readout import find_tower_readout
from recspark.training.towers.result import TowerResult
from recspark.training.trackers import check_trackers, open_trackers
from recspark.training.trainer import Trainer, TrainState
from recspark.training.warm_start import StartRows, plan_start
from recspark.training.world import Launch, World, find_launch, open_world


def train(run: Run) -> None:
    """Trains the run's model from its latest checkpoint, publishes it and commits its embeddings.

    A published model whose folder has lost a file is made again from the latest checkpoint.

    Raises: LakeError when an input is missing; DataError when the corpus holds nothing to learn from; TrainingError
    when training cannot start, be resumed or go on; SystemExit with one of `stopping`'s codes after SIGTERM.
    """
    if run.config.model.is_closed_form:  # nothing to save, and long calls of C in which Python answers no signal
        _train(run)
        return
    try:
        with ending_at_once():
            _train(run)
    except Terminated as told:
        # torchrun ends a rank also while that is ending by itself because another one was lost: it has to say so.
        if error := _find_error(told):
            raise error from error.__cause__
        raise SystemExit(_tell_stop(run)) from None


def _find_error(told: BaseException) -> RecsparkError | None:
    """The error on whose way out another exception came."""
    error = told.__context__
    while error is not None and not isinstance(error, RecsparkError):
        error = error.__context__
    return error


def _tell_stop(run: Run) -> int:
    """Says what the next start finds of a training that was ended outside its steps; the exit code."""
    launch, record = find_launch(), find_record(checkpoint_uri(run))
    if record is None:
        _say(launch, "stopped by SIGTERM before there was anything to save; the next start begins anew")
        return EXIT_TERMINATED
    _say(launch, f"stopped by SIGTERM; the next start goes on from the checkpoint of step {record.step}")
    # torchrun ends ranks so also where it has lost one of them, and only its own end tells which it was.
    return EXIT_CHECKPOINTED if launch.world_size == 1 else EXIT_TERMINATED


def _train(run: Run) -> None:
    launch, is_closed_form = find_launch(), run.config.model.is_closed_form
    if is_closed_form and launch.world_size > 1:
        if launch.rank > 0:
            return  # nothing to share: rank 0 does it alone
        launch = Launch()
    done = find_done(run.lake, run.stages["train"])
    if done and find_flaw(run.lake, MODELS, run.stages["train"].id) is None:
        _say(launch, f"already done at version {done[0]}")
        return
    inputs, published = find_inputs(run), find_model(run)
    name, device, reason = (CPU, "cpu", "") if published or is_closed_form else pick_backend(run, launch)
    with open_world(launch, device, run.config.training.timeout_seconds) as world:
        is_known = False
        if published:
            _say(launch, f"model {run.stages['train'].id} is published already; writing its embeddings")
            model = read_model(run, published, len(inputs.num_events), world)
        else:
            model = fit_closed_form(run, inputs) if is_closed_form else _fit(run, inputs, launch, world, name, reason)
            is_known = publish_model(run, model, inputs.versions, world)
        if done and is_known:
            _say(launch, f"model {run.stages['train'].id} is as it was: its embeddings stand at version {done[0]}")
        else:
            write_embeddings(run, model, inputs, world)


def pick_backend(run: Run, launch: Launch) -> tuple[str, str, str]:
    """(backend, device, reason) of a run; that of its checkpoint where it has one."""
    config = run.config.training
    if run.config.model.has_towers:
        config = config.model_copy(update={"backend": TORCH})
        name, device, _ = choose_backend(config, launch)
        return name, device, f"model.kind {run.config.model.kind} is trained by it"
    record = find_record(checkpoint_uri(run))
    return choose_backend(config, launch, record.facts.get("backend") if record else None)


def _fit(run: Run, inputs: TrainInputs, launch: Launch, world: World, name: str, reason: str) -> TrainedModel:
    """Trains on all ranks; this one's part of the model. Collective."""
    config, stage = run.config.training, run.stages["train"]
    if launch.rank == 0:  # it alone has trackers
        check_trackers(config.trackers)
    reader = open_reader(inputs.open_corpora(), config.num_lanes, run.seed)
    num_threads = count_threads(config, launch)
    _say(launch, f"backend {name} on {world.device}, {launch.world_size} rank(s): {reason}", num_threads=num_threads,
         num_lanes=reader.num_lanes, sequences=reader.num_rows)  # fmt: skip
    backend = build_backend(run, inputs, name, world, num_threads)
    start = open_start(run, inputs)
    if start:
        assert isinstance(backend, StartsWarm), "towers with a warm start are refused with the config"
        backend.start_from(start)
        _say(launch, f"starts from model {start.model.model_id}", **start.counts)
    trackers = partial(open_trackers, config.trackers, stage.id, stage.sections)
    trainer = Trainer(backend, reader, _checkpoints(run, inputs, name, reader), config, world, trackers)
    started = time.monotonic()
    state = trainer.train()
    left_out = reader.rows_left_out(config.batch_sequences)
    counts = _counts(state, trainer.schedule.num_steps, config.epochs, left_out)
    seconds = round(time.monotonic() - started, 1)
    _say(launch, "trained", loss=counts["final_loss"], seconds=seconds, **state.speed)
    facts = _facts(run, name) | ({"warm_start": start.to_facts()} if start else {})
    if isinstance(backend, TowerTraining):
        return _finish_towers(run, inputs, backend.result(), counts, facts, world)
    facts |= find_readout(run.config.model, inputs, backend.part, world)
    items = own_items(len(inputs.num_events), world)
    return TrainedModel(backend.part(items), items, counts, facts)


def _finish_towers(
    run: Run, inputs: TrainInputs, result: TowerResult, counts: dict[str, Any], facts: dict[str, Any], world: World
) -> TrainedModel:
    """A trained tower model with what it is exported by. Collective."""
    facts |= find_tower_readout(run.config.model, inputs, result, world)
    items = own_items(len(inputs.num_events), world)
    return TrainedModel(result.tables_of(items), items, counts, facts, result)


def open_start(run: Run, inputs: TrainInputs) -> StartRows | None:
    """The rows of the earlier model that `training.warm_start` names, None without one.

    Raises: TrainingError when that model is not there, does not fit or knows what this run holds out; LakeError when
    its files are damaged.
    """
    config, manifest = run.config.training, check_start(run)
    if config.warm_start is None or manifest is None:
        return None
    has_output = run.config.model.objective != "hierarchical_softmax"  # there an output row is no item's
    earlier = open_earlier_model(config.warm_start.lake or run.lake, manifest, inputs.items, has_output)
    return plan_start(earlier, inputs, config.warm_start.features, config.min_count)


def count_threads(config: TrainingConfig, launch: Launch) -> int:
    """CPU threads of one process."""
    return config.num_threads or max(1, count_cpus() // launch.local_world_size)


def find_objective(run: Run, inputs: TrainInputs) -> Objective:
    """What a run's model fits.

    Raises: DataError when too few items are left to learn from.
    """
    config = run.config.training
    counts = leave_out_rare(inputs.num_events, config.min_count)
    groups = read_groups(inputs.items, config.negative_group) if config.negative_group else None
    return build_objective(run.config.model, config, counts, run.seed, groups)


def build_backend(run: Run, inputs: TrainInputs, name: str, world: World, num_threads: int) -> Backend:
    """A model at its start. Collective."""
    if run.config.model.has_towers:
        from recspark.training.towers.model import build_tower_backend

        return build_tower_backend(run, inputs, world, num_threads)
    dim, objective = run.config.model.embedding_dim, find_objective(run, inputs)
    if name == CPU:
        from recspark.training.cpu_backend import CpuBackend

        return CpuBackend(dim, objective)
    from recspark.training.torch_backend import TorchBackend

    return TorchBackend(dim, objective, world, num_threads)


def _checkpoints(run: Run, inputs: TrainInputs, backend: str, reader: SequenceReader) -> Checkpoints:
    """The run's checkpoints, with all that a resume depends on."""
    stage = run.stages["train"]
    facts: dict[str, Any] = {
        "key": stage.key,
        "backend": backend,
        "config": stage.sections,
        "tables": inputs.versions,
        "num_items": len(inputs.num_events),
        "vocabulary": inputs.fingerprint(),
        "num_steps": run.config.training.epochs * reader.steps_per_epoch(run.config.training.batch_sequences),
        "num_lanes": reader.num_lanes,
        "sequences": reader.num_rows,
        "counted": [counted.name for counted in fields(TrainState)],  # another version's state may be of other numbers
    }
    return Checkpoints(checkpoint_uri(run), run.config.training.keep_checkpoints, facts)


def _counts(state: TrainState, num_steps: int, epochs: int, rows_left_out: int) -> dict[str, Any]:
    return {
        "tokens": state.tokens,
        "pairs": state.pairs,
        "steps": num_steps,
        "epochs": epochs,
        "rows_left_out": rows_left_out,
        "final_loss": state.final_loss,
        "seconds": round(state.seconds, 1),
        **state.speed,
    }


def _facts(run: Run, backend: str) -> dict[str, Any]:
    model = run.config.model
    return {
        "embedding_dim": model.embedding_dim,
        "model_id": run.stages["train"].id,
        "model_kind": model.kind,
        "backend": backend,
    }


def _say(launch: Launch, message: str, **facts: Any) -> None:
    """Rank 0 speaks for all."""
    if launch.rank == 0:
        log("train", message, **facts)
