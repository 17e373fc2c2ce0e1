"""What the tests of whole runs share."""

from pathlib import Path

import pytest

from tests.helpers.chain import run_chain, write_conf


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(config, what it said) of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    conf = write_conf(folder / "run.yaml", folder / "lake")
    done = run_chain(conf)
    assert done.code == 0, done.text
    return conf, done.text
