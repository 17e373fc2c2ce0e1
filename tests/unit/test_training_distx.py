"""Core torch where torchdistx is missing, which it is; the package's own classes where it can be imported."""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recspark.config.trainer import DenseConfig, SlowMoConfig
from recspark.training.any_precision import AnyPrecisionAdamW
from recspark.training.distx import build_deferred, build_dense_optimizer, has_torchdistx
from recspark.training.slow_momentum import SlowMomentum
from recspark.training.world import World


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(3))]


def build(**config: Any) -> Any:
    return build_dense_optimizer(parameters(), 0.1, DenseConfig(**config), World())


def test_core_torch_does_it_without_the_package() -> None:
    assert not has_torchdistx()
    assert type(build()) is torch.optim.AdamW
    assert build(weight_decay=0.2).param_groups[0]["weight_decay"] == 0.2
    assert type(build(state="bfloat16")) is AnyPrecisionAdamW
    slow = build(state="bfloat16", slowmo=SlowMoConfig(period=3))
    assert type(slow) is SlowMomentum
    assert type(slow.base) is AnyPrecisionAdamW


def test_a_package_that_is_there_and_cannot_be_imported_is_as_good_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "torchdistx"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise ImportError('built for torch 1.12')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert importlib.util.find_spec("torchdistx") is not None
    assert not has_torchdistx()
    assert type(build(state="bfloat16")) is AnyPrecisionAdamW
    assert type(build(slowmo=SlowMoConfig(period=3))) is SlowMomentum


def fill(name: str, tensor: Tensor) -> None:
    tensor.fill_(len(name))


def test_a_deferred_module_takes_no_memory_until_it_is_made() -> None:
    seen = []

    class Tower(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 2)
            seen.append(self.weight.device.type)

    module = build_deferred(Tower, "cpu", fill)
    assert seen == ["meta"]
    assert module.weight.tolist() == [[6.0] * 4] * 2
    assert module.bias.tolist() == [4.0] * 2


class Given(dict[str, Any]):
    """Stands for a class of the package: keeps what it was given."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(named, args=args)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of torchdistx's module names."""
    names = ("torchdistx", "torchdistx.slowmo", "torchdistx.slowmo.slowmo_optimizer", "torchdistx.optimizers")
    for name in (*names, "torchdistx.deferred_init"):
        module = ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["torchdistx.optimizers"].AnyPrecisionAdamW = Given  # type: ignore[attr-defined]
    sys.modules["torchdistx.slowmo.slowmo_optimizer"].SlowMomentumOptimizer = Given  # type: ignore[attr-defined]
    sys.modules["torchdistx.deferred_init"].deferred_init = lambda build: build()  # type: ignore[attr-defined]
    sys.modules["torchdistx.deferred_init"].materialize_module = lambda module: None  # type: ignore[attr-defined]


@pytest.mark.usefixtures("package")
def test_the_package_is_used_where_it_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    slow = build(state="bfloat16", slowmo=SlowMoConfig(period=3, momentum=0.4, learning_rate=0.9))
    base, *rest = slow["args"]
    assert rest == [3, 0.4, 0.9]
    assert base["use_kahan_summation"] is True
    assert base["variance_dtype"] == torch.bfloat16
    said = capsys.readouterr().err
    assert "AnyPrecisionAdamW of torchdistx" in said
    assert "SlowMo of torchdistx" in said
    assert build_deferred(lambda: nn.Linear(1, 1), "cpu", fill).weight.tolist() == [[6.0]]
