"""The loop with a stand-in backend: which rank is named when a loss runs away, what a stop leaves."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recspark.config.schema import TrainingConfig
from recspark.errors import TrainingError
from recspark.training.checkpoint import Checkpoints
from recspark.training.checkpoint_record import Difference
from recspark.training.nearest import Nearest, describe_anew, find_nearest
from recspark.training.sequence_files import Sequences
from recspark.training.trainer import Trainer
from recspark.training.world import World

NUM_LANES, STEPS_PER_EPOCH = 4, 6


class Batches:
    """A reader of 4 lanes whose epochs have 6 batches of one sequence a lane."""

    num_rows, num_lanes = NUM_LANES * STEPS_PER_EPOCH, NUM_LANES

    def rank_lanes(self, rank: int, world_size: int) -> range:
        size = NUM_LANES // world_size
        return range(rank * size, (rank + 1) * size)

    def steps_per_epoch(self, batch_sequences: int) -> int:
        return STEPS_PER_EPOCH

    def read(self, epoch: int, first_step: int, batch_sequences: int, lanes: Sequence[int]) -> Iterator[Sequences]:
        for _ in range(first_step, STEPS_PER_EPOCH):
            yield Sequences(np.arange(2 * len(lanes), dtype=np.int32), np.arange(len(lanes) + 1) * 2)


class Steps:
    """A backend whose loss a pair is given by the step, 1 of an untrained model; nothing else happens."""

    name = "steps"

    def __init__(self, loss_of: Callable[[int], float] = lambda step: 1.0) -> None:
        self.loss_of, self.step_number, self.is_good = loss_of, 0, True

    def prepare(self, batch: Sequences, place: Any) -> Any:
        return place

    def untrained_loss(self, batch: Sequences, place: Any) -> tuple[float, int]:
        assert place.global_step == 0
        return 1.0, 1

    def step(self, prepared: Any, learning_rate: float) -> None:
        self.step_number = prepared.global_step + 1

    def take_loss(self) -> tuple[float, int]:
        return self.loss_of(self.step_number), 1

    def is_finite(self) -> bool:
        return self.is_good

    def save(self, folder: str) -> None:
        Path(folder, "state").write_text(str(self.step_number))

    def load(self, folder: str) -> None:
        self.step_number = int(Path(folder, "state").read_text())


class TwoRanks(World):
    """Rank 0 of two; what the other one has to say is fixed, but for what is counted alike on both."""

    def __init__(self, other_loss: Callable[[], float]) -> None:
        super().__init__(rank=0, world_size=2)
        object.__setattr__(self, "other_loss", other_loss)

    def gather_numbers(self, values: Sequence[float]) -> list[list[float]]:
        other = list(values)
        if len(values) > 1:  # a report: loss first
            other[0] = self.other_loss()  # type: ignore[attr-defined]
        return [list(values), other]

    def gather_objects(self, value: Any) -> list[Any]:
        return [value, []]  # the other holds no files

    def arrive(self, step: int) -> None:
        pass


def open_trainer(folder: Path, backend: Steps, world: World | None = None, **config: Any) -> Trainer:
    checkpoints = Checkpoints(str(folder / "key"), 2, {"num_steps": 12})
    settings = TrainingConfig.model_validate({"epochs": 2, "checkpoint_steps": 4, "num_lanes": 4, **config})
    return Trainer(backend, Batches(), checkpoints, settings, world or World())  # type: ignore[arg-type]


def test_the_rank_whose_loss_is_no_number_is_named_with_its_lanes(tmp_path: Path) -> None:
    backend = Steps()
    world = TwoRanks(lambda: math.nan if backend.step_number == 9 else 1.0)
    with pytest.raises(TrainingError) as caught:
        open_trainer(tmp_path, backend, world).train()
    assert str(caught.value) == (
        "training diverged at step 9 of 12 (rank 1 of 2, epoch 1, lanes 2..3, batch 2 of each): loss nan a pair (1 "
        "untrained); the checkpoint of step 8 stays. Lower training.learning_rate (now 0.5)"
    )
    assert json.loads((tmp_path / "key" / "LATEST").read_text())["state"]["step"] == 8
    lines = (tmp_path / "key" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 9))


def test_of_a_loss_that_ran_away_the_worst_rank_is_named(tmp_path: Path) -> None:
    backend = Steps()
    world = TwoRanks(lambda: 500.0 if backend.step_number == 3 else 1.0)
    with pytest.raises(
        TrainingError,
        match=r"step 3 of 12 \(rank 1 of 2, epoch 0, lanes 2\.\.3, batch 2 of each\): loss 250.5 a pair is above 100 "
        r"\(training.max_loss_ratio\) x 1 untrained; no checkpoint yet",
    ):
        open_trainer(tmp_path, backend, world, max_loss_ratio=100).train()


def test_a_loss_that_ran_away_in_the_first_batch_is_seen(tmp_path: Path) -> None:
    """A falling loss, as of a learning rate of 1000: the worst comes first."""
    with pytest.raises(TrainingError, match=r"step 1 of 12 .* loss 1e\+06 a pair is above 1000 \(.*\) x 1 untrained"):
        open_trainer(tmp_path, Steps(lambda step: 1e6 / step)).train()


def test_the_limit_goes_on_after_a_resume(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="checkpoint of step 4 stays"):
        open_trainer(tmp_path, Steps(lambda step: math.nan if step == 6 else 900.0)).train()
    with pytest.raises(TrainingError, match=r"step 5 of 12 .* loss 1001 a pair is above 1000"):
        open_trainer(tmp_path, Steps(lambda step: 1001.0)).train()


@pytest.mark.parametrize(("loss", "is_said"), [(1.5, True), (0.9, False)])
def test_a_training_that_learned_nothing_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loss: float, is_said: bool
) -> None:
    open_trainer(tmp_path, Steps(lambda step: loss)).train()
    said = "the last epoch's loss, 1.5 a pair, is above an untrained model's, 1: training.learning_rate 0.5 may be"
    assert (said in capsys.readouterr().err) == is_said


def test_where_reports_are_rare_the_place_is_a_range(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path, Steps(lambda step: math.nan if step > 2 else 1.0))
    trainer._report_steps = 3
    with pytest.raises(TrainingError, match=r"at step 3 of 12 .*batch 2 of each or one of the 2 before it\): loss nan"):
        trainer.train()


def test_a_bad_state_is_found_between_two_checkpoints(tmp_path: Path) -> None:
    backend = Steps()
    backend.is_good = False
    with pytest.raises(
        TrainingError,
        match=r"at step 4 of 12 .*batch 3 of each or one of the 3 before it\): a gradient is not a number; no",
    ):
        open_trainer(tmp_path, backend).train()


def test_trackers_hear_whether_training_came_to_its_end(tmp_path: Path) -> None:
    ended = []

    class Noted:
        name = "noted"

        def log(self, step: int, values: dict[str, float]) -> None:
            assert values["loss"] == 1.0

        def close(self, is_finished: bool) -> None:
            ended.append(is_finished)

    for loss_of in (lambda step: math.nan if step == 7 else 1.0, lambda step: 1.0):
        trainer = open_trainer(tmp_path, Steps(loss_of))
        trainer._reports._open_trackers = lambda step: [Noted()]
        try:
            trainer.train()
        except TrainingError as error:
            assert "step 7" in str(error)  # noqa: PT017
    assert ended == [False, True]


def test_a_resume_that_is_required_lists_what_differs(tmp_path: Path) -> None:
    facts = {"key": "one", "num_steps": 12, "config": {"training": {"window": 5}}, "tables": {"items": 3}}
    backend = Steps(lambda step: math.nan if step == 6 else 1.0)
    settings = TrainingConfig(epochs=2, checkpoint_steps=4, num_lanes=4)
    with pytest.raises(TrainingError, match="checkpoint of step 4 stays"):
        Trainer(backend, Batches(), Checkpoints(f"{tmp_path}/one", 2, facts), settings, World()).train()  # type: ignore[arg-type]
    changed = facts | {"key": "two", "config": {"training": {"window": 4}}, "tables": {"items": 4}}
    required = settings.model_copy(update={"resume": "required"})
    with pytest.raises(TrainingError) as caught:
        Trainer(Steps(), Batches(), Checkpoints(f"{tmp_path}/two", 2, changed), required, World()).train()  # type: ignore[arg-type]
    assert str(caught.value).splitlines() == [
        f"{tmp_path}/two: no checkpoint; that of step 4 in {tmp_path}/one is of another training:",
        "  config.training.window: the checkpoint has 5, this run has 4",
        "  tables.items: the checkpoint has 3, this run has 4",
        "undo the change to go on from it, or leave training.resume=required out to train from the start",
    ]


def test_without_another_training_a_required_resume_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        open_trainer(tmp_path, Steps(), resume="required").train()
    assert str(caught.value) == (
        f"training.resume is required, but {tmp_path}/key has no checkpoint yet, and no unfinished training is "
        f"beside it; set training.resume to auto, which trains from the start"
    )


def test_a_start_from_nothing_names_the_unfinished_training_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TrainingError, match="stays"):
        open_trainer(tmp_path, Steps(lambda step: math.nan if step == 6 else 1.0)).train()
    other = Checkpoints(str(tmp_path / "other"), 2, {"num_steps": 12, "window": 3})
    settings = TrainingConfig(epochs=2, num_lanes=4)
    state = Trainer(Steps(), Batches(), other, settings, World()).train()  # type: ignore[arg-type]
    assert state.step == 12
    said = capsys.readouterr().err
    assert f"warning: begins anew, though a training stopped at step 4 ({tmp_path}/key), which was made from" in said
    assert "window None -> 3. Undo the change to go on from it; with training.resume=required such a change" in said
    third = Checkpoints(str(tmp_path / "third"), 2, {"num_steps": 12, "window": 3})  # `other` is finished
    nearest = find_nearest(third.uri, third.facts)
    assert nearest is not None
    assert nearest.uri == f"{tmp_path}/key"


def test_a_warning_of_many_differences_stays_short() -> None:
    differences = [Difference(f"config.training.k{i}", "x" * 100, i) for i in range(7)]
    said = describe_anew(Nearest("lake/checkpoints/key", 5, differences))
    assert "k0 ... -> 0, config.training.k1 ... -> 1, " in said
    assert "k3 ... -> 3, and 3 more. Undo" in said
    assert "a stage that it reads, is another one. Undo" in describe_anew(Nearest("key", 5, []))
