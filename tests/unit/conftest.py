"""Lakes that many unit tests look at, made once."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def made_released(tmp_path_factory: pytest.TempPathFactory) -> "Released":  # noqa: F821
    """Two published releases; not to be changed."""
    pytest.importorskip("faiss")
    from tests.helpers.released import build_released

    return build_released(tmp_path_factory.mktemp("released"))


@pytest.fixture
def released(made_released: "Released", tmp_path: Path) -> "Released":  # noqa: F821
    """A copy of the lake with two published releases."""
    from tests.helpers.released import copy_released

    return copy_released(made_released, tmp_path / "copy")
