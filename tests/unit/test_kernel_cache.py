"""Where compiled kernels are kept: a folder of their own for each state of the sources."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import recspark

KERNEL = "from numba import njit\n"


def cache_folder(path: Path) -> str:
    """The folder's name in a fresh process that finds the package below ``path``."""
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    code = "import os, recspark; print(os.path.basename(os.environ['NUMBA_CACHE_DIR']))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | {"PYTHONPATH": str(path)}, cwd=path.parent,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_an_edited_kernel_gets_another_folder_and_an_edited_message_does_not(tmp_path: Path) -> None:
    package = tmp_path / "recspark"
    for room in ("walks", "report", "evaluate/leak"):
        (package / room).mkdir(parents=True)
    shutil.copy(recspark.__file__, package)
    (package / "walks" / "rng.py").write_text(KERNEL)
    before = cache_folder(tmp_path)
    (package / "report" / "page.py").write_text("TITLE = 'x'\n")
    assert cache_folder(tmp_path) == before
    for room in ("walks", "evaluate/leak"):
        (package / room / "rng.py").write_text(KERNEL + "SHIFT = 30\n")
        after = cache_folder(tmp_path)
        assert after != before
        before = after


def test_a_package_in_a_zip_has_a_folder_too(tmp_path: Path) -> None:
    package = tmp_path / "source" / "recspark"
    (package / "walks").mkdir(parents=True)
    shutil.copy(recspark.__file__, package)
    (package / "walks" / "rng.py").write_text(KERNEL)
    archive = shutil.make_archive(str(tmp_path / "recspark"), "zip", tmp_path / "source")
    assert cache_folder(Path(archive)) == f"recspark-numba-{os.getuid()}-{recspark.__version__}"
