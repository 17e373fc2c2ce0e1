"""`sgns_torch`: the torch path against the same arithmetic with nn.Embedding(sparse=True) and SparseAdam.

Same sentences, windows, negatives and weights; one global batch a step, autograd and torch's sparse optimizer in the
peer. Both draw their windows and negatives inside the timed loop. On a CUDA device where there is one.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.corpus import SENTENCE, Corpus, make_corpus, neighbour_purity
from benchmarks.lines import find_versions, speed_line
from benchmarks.paired import Timing, run_pairs, timed
from benchmarks.skip_gram_runs import cut_batches, objective_of, places, training_config
from recspark.training.objective import Objective, Place
from recspark.training.schedule import plan_schedule
from recspark.training.sequence_files import Sequences
from recspark.training.torch_backend import TorchBackend
from recspark.training.world import World

DIM = 128
_QUICK_SIZES = ((5_000, 100_000),)
_CPU_SIZES = ((50_000, 1_000_000), (1_000_000, 1_000_000))
_GPU_SIZES = ((1_000_000, 60_000_000),)
"""(items, tokens)."""
_SETUP = {False: (1024, "cpu"), True: (16384, "cuda:0")}
"""By whether there is a GPU: (sentences a batch, device)."""
_WARM_UP_STEPS = 3
_LEARNING_RATE = 0.05
"""Of .025, .05, .1, .2 and .5 the one with the highest purity on another seed's 400,000 tokens, of either side: .9325
(Adagrad) and .9298 (Adam)."""


def run(quick: bool, command: str) -> Iterator[dict[str, Any]]:
    """A line a catalogue; on a GPU with larger batches and the rates a second."""
    on_gpu = torch.cuda.is_available()
    full = _GPU_SIZES if on_gpu else _CPU_SIZES
    for num_items, num_tokens in _QUICK_SIZES if quick else full:
        comparison = Comparison(make_corpus(num_items, num_tokens), *_SETUP[on_gpu])
        comparison.warm_up()
        paired = run_pairs(comparison.train_peer, comparison.train_project, 2 if quick else 3)
        work = comparison.work
        rates = {side: round(work["tokens"] / paired.median_seconds(side)["wall"]) for side in ("project", "peer")}  # type: ignore[arg-type]
        versions = find_versions("torch", "numpy", "numba") | {"device": _device_name(on_gpu)}
        yield speed_line(
            "sgns_torch", "nn.Embedding(sparse) + SparseAdam", paired, work, versions, command,
            counts="wall" if on_gpu else None, tokens_per_second=rates, neighbour_purity=comparison.quality(),
        )  # fmt: skip


class Comparison:
    """Both sides on one corpus: one epoch each."""

    def __init__(self, corpus: Corpus, batch_rows: int, device: str) -> None:
        self._corpus, self._device = corpus, device
        self._config = training_config(
            epochs=1, batch_sequences=batch_rows, backend="torch", num_lanes=1, learning_rate=_LEARNING_RATE
        )
        self._counts = corpus.counts
        self._objective = objective_of(self._config, self._counts)
        self._batches = cut_batches(corpus.tokens, batch_rows)
        self._vectors: dict[str, np.ndarray] = {}

    @property
    def work(self) -> dict[str, Any]:
        """What one run does."""
        tokens = sum(len(b.values) for b in self._batches)
        return {
            "num_items": len(self._counts), "tokens": tokens, "dim": DIM, "window": 5, "num_negatives": 5,
            "batch_sequences": self._config.batch_sequences, "threads": torch.get_num_threads(),
        }  # fmt: skip

    def warm_up(self) -> None:
        """A few steps of both, untimed."""
        whole, self._batches = self._batches, self._batches[:_WARM_UP_STEPS]
        self.train_peer()
        self.train_project()
        self._batches = whole

    def train_project(self) -> Timing:
        """An epoch of the torch backend."""
        backend = TorchBackend(DIM, self._objective, World(device=self._device), torch.get_num_threads())
        with timed() as timing:
            for place, batch, rate in self._steps():
                backend.step(backend.prepare(batch, place), rate)
            backend.take_loss()  # waits for the device
        self._vectors["project"] = backend.part(range(len(self._counts))).input
        return timing

    def train_peer(self) -> Timing:
        """An epoch of autograd with sparse tables."""
        peer = SparsePeer(self._objective, self._device)
        with timed() as timing:
            for place, batch, rate in self._steps():
                peer.step(batch, place, rate)
            peer.wait()
        self._vectors["peer"] = peer.input.weight.detach().cpu().numpy()
        return timing

    def quality(self) -> dict[str, float]:
        """Neighbour purity of the last training of each side."""
        return {
            side: neighbour_purity(vectors, self._corpus.topic, self._counts) for side, vectors in self._vectors.items()
        }

    def _steps(self) -> Iterator[tuple[Place, Sequences, float]]:
        schedule = plan_schedule(self._config, len(self._batches))
        for place in places(self._config, len(self._batches)):
            yield place, self._batches[place.step], schedule.rate(place.global_step)


class SparsePeer:
    """What torch offers out of the box: two sparse embeddings, autograd, SparseAdam."""

    def __init__(self, objective: Objective, device: str) -> None:
        torch.manual_seed(1)
        num_items = objective.num_items
        self.input = nn.Embedding(num_items, DIM, sparse=True, device=device)
        self.output = nn.Embedding(num_items, DIM, sparse=True, device=device)
        nn.init.uniform_(self.input.weight, -0.1 / DIM**0.5, 0.1 / DIM**0.5)
        nn.init.zeros_(self.output.weight)
        self._optimizer = torch.optim.SparseAdam([self.input.weight, self.output.weight])
        self._noise, self._config, self._device = objective.noise, objective.config, device
        place = torch.arange(SENTENCE, device=device)
        self._distance = (place[:, None] - place[None]).abs()

    def step(self, batch: Sequences, place: Place, rate: float) -> None:
        """Learns from a batch of sentences of equal length."""
        items_BL = torch.from_numpy(batch.values.astype(np.int64)).view(-1, SENTENCE).to(self._device)
        drawn = self._noise.draw(1, place.global_step, self._config.shared_negatives * 8)
        negatives_N = torch.from_numpy(drawn.astype(np.int64)).to(self._device)
        window_B1L = torch.randint(1, self._config.window + 1, (len(items_BL), 1, SENTENCE), device=self._device)
        loss = self._loss(items_BL, negatives_N, window_B1L)
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()

    def _loss(self, items_BL: Tensor, negatives_N: Tensor, window_B1L: Tensor) -> Tensor:
        input_BLD, output_BLD = self.input(items_BL), self.output(items_BL)
        pairs_BLL = ((self._distance <= window_B1L) & (self._distance > 0)).float()
        positive = F.softplus(-torch.bmm(input_BLD, output_BLD.transpose(1, 2))) * pairs_BLL
        scores_TN = input_BLD.view(-1, DIM) @ self.output(negatives_N).T
        weight = self._config.num_negatives / len(negatives_N)
        negative = F.softplus(scores_TN).sum(1) * pairs_BLL.sum(2).view(-1) * weight
        return positive.sum() + negative.sum()

    def wait(self) -> None:
        """Until the device is done."""
        self.input.weight[0, 0].item()


def _device_name(on_gpu: bool) -> str:
    return torch.cuda.get_device_name(0) if on_gpu else "cpu"
