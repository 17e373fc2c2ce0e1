"""AdamW whose state is kept in bfloat16, with Kahan summation where the parameters are bfloat16 too.

Bytes a parameter with its gradient: 16 for AdamW in float32; here 12 with float32 parameters and 10 with bfloat16 ones,
whose lost low bits the compensation keeps. For embedding tables it has nothing to offer: row-wise Adagrad has one
number a row, and a bfloat16 number with its compensation is as large as a float32.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class AnyPrecisionAdamW(Optimizer):
    """Adam with decoupled weight decay; moments in ``state_dtype``, arithmetic in float32, one rounding a step.

    With m and v the moments and c the compensation of a parameter w of fewer bits than float32, all 0 at first:

        m <- b1 m + (1 - b1) g            v <- b2 v + (1 - b2) g^2
        d <- -lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) - lr weight_decay w
        s <- d + c;  w' <- round(w + s);  c <- round(s - (w' - w));  w <- w'

    Without c an update below half a unit in the last place of w (.2 % to .4 % of w in bfloat16) is lost, each time. For
    the same reason b2 .999 would never let a bfloat16 v fall; .99 does, and follows it to some tens of percent.

    Source: Loshchilov & Hutter 2019 (AdamW); Kahan 1965; as in torchdistx's AnyPrecisionAdamW, whose arithmetic is in
    the state's precision.

    Raises: ValueError for a second beta that the state cannot follow.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        state_dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        # v falls by (1 - b2) of itself at most, and half a unit in the last place is eps / 4 .. eps / 2 of it.
        smallest = torch.finfo(state_dtype).eps / 2
        if 1 - betas[1] < smallest:
            raise ValueError(
                f"betas[1] {betas[1]} leaves {state_dtype} moments where they are; at most {1 - smallest:.3f}"
            )
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._state_dtype = state_dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group["lr"], group["betas"], group["eps"], group["weight_decay"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from what `state_dict` gave; torch would bring the moments to the parameters' precision."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = state[name].to(self._state_dtype)

    def _update(
        self, parameter: Tensor, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
    ) -> None:
        state = self.state[parameter] or self._start(parameter)
        state["step"] += 1
        gradient, (b1, b2), t = parameter.grad.float(), betas, int(state["step"])  # type: ignore[union-attr]
        m = state["exp_avg"].float().lerp(gradient, 1 - b1)
        v = state["exp_avg_sq"].float().mul(b2).addcmul_(gradient, gradient, value=1 - b2)
        state["exp_avg"].copy_(m)
        state["exp_avg_sq"].copy_(v)
        change = m.mul_(-lr / (1 - b1**t)).div_(v.sqrt_().div_(math.sqrt(1 - b2**t)).add_(eps))
        before = parameter.float()
        if weight_decay:
            change.sub_(before, alpha=lr * weight_decay)
        if "compensation" in state:
            change.add_(state["compensation"].float())
        parameter.copy_(before + change)
        if "compensation" in state:
            state["compensation"].copy_(change - (parameter.float() - before))

    def _start(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        state["step"] = torch.zeros(())
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = torch.zeros_like(parameter, dtype=self._state_dtype)
        if parameter.dtype in (torch.bfloat16, torch.float16):
            state["compensation"] = torch.zeros_like(parameter)
        return state  # type: ignore[no-any-return]
