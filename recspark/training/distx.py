"""The three things people took from torchdistx, from core torch: deferred init, SlowMo, AnyPrecision.

torchdistx is dead (torch 1.12, no wheels), so nothing here needs it: parameters are laid out on the `meta` device and
made where they belong, `SlowMomentum` and `AnyPrecisionAdamW` are ours. Where the package can be imported, its own
classes are used and the log says so.
"""

import importlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from recspark.config.trainer import DenseConfig
from recspark.logs import log
from recspark.training.any_precision import AnyPrecisionAdamW
from recspark.training.slow_momentum import SlowMomentum
from recspark.training.world import World

_BETAS = (0.9, 0.99)
_MODULES = ("torchdistx.deferred_init", "torchdistx.optimizers", "torchdistx.slowmo.slowmo_optimizer")


class Steps(Protocol):
    """What a training loop needs of an optimizer, wrapped or not."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Parameters with their ``lr``, which a schedule sets."""

    def zero_grad(self) -> None:
        """Forgets the gradients."""

    def step(self) -> Any:
        """Learns from them."""

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """From a checkpoint."""


def has_torchdistx() -> bool:
    """Whether the package can be imported here; one that is installed for another torch cannot."""
    try:
        for module in _MODULES:
            importlib.import_module(module)
    except (ImportError, OSError, AttributeError, RuntimeError):  # what a library built for another torch raises
        return False
    return True


def build_dense_optimizer(
    parameters: Iterable[Tensor], learning_rate: float, config: DenseConfig, world: World
) -> Steps:
    """The optimizer of a model's dense parameters, as ``training.dense`` says."""
    base = _build_adamw(list(parameters), learning_rate, config)
    if config.slowmo is None:
        return base
    slowmo = config.slowmo
    if has_torchdistx():
        from torchdistx.slowmo.slowmo_optimizer import SlowMomentumOptimizer

        log("train", "SlowMo of torchdistx")
        found: Steps = SlowMomentumOptimizer(base, slowmo.period, slowmo.momentum, slowmo.learning_rate)
        return found
    return SlowMomentum(base, slowmo.period, slowmo.momentum, slowmo.learning_rate, world)


def _build_adamw(parameters: list[Tensor], learning_rate: float, config: DenseConfig) -> Optimizer:
    if config.state == "float32":
        return torch.optim.AdamW(parameters, learning_rate, _BETAS, weight_decay=config.weight_decay)
    if has_torchdistx():
        from torchdistx.optimizers import AnyPrecisionAdamW as TheirAdamW

        log("train", "AnyPrecisionAdamW of torchdistx")
        low = torch.bfloat16
        found: Optimizer = TheirAdamW(
            parameters, learning_rate, _BETAS, weight_decay=config.weight_decay, use_kahan_summation=True,
            momentum_dtype=low, variance_dtype=low, compensation_buffer_dtype=low,
        )  # fmt: skip
        return found
    return AnyPrecisionAdamW(parameters, learning_rate, _BETAS, weight_decay=config.weight_decay)


def build_deferred(build: Callable[[], nn.Module], device: str, fill: Callable[[str, Tensor], None]) -> nn.Module:
    """A module built without memory for its parameters, then made on ``device``, where ``fill`` sets each by name.

    Nothing is drawn while building, so initial values come from ``fill`` alone (`init.init_rows`: by seed and row).
    """
    if has_torchdistx():
        from torchdistx.deferred_init import deferred_init, materialize_module

        module: nn.Module = deferred_init(build)
        materialize_module(module)
        module.to(device)
    else:
        with torch.device("meta"):
            module = build()
        module.to_empty(device=device)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            fill(name, tensor)
    return module
