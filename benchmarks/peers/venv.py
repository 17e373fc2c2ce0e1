"""A peer's virtual environment under ``benchmarks/work/peers``: made when it is first needed or its list changes."""

import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.lines import BenchmarkError
from benchmarks.places import WORK

_LISTS = Path(__file__).parent


def peer_python(name: str) -> str:
    """The Python of a peer's environment.

    Raises: BenchmarkError when its packages cannot be installed.
    """
    wanted = (_LISTS / f"{name}.txt").read_text()
    folder = WORK / "peers" / name
    python, installed = folder / "bin" / "python", folder / "installed.txt"
    if not installed.exists() or installed.read_text() != wanted:
        print(f"peers: installing {name} into its own environment", file=sys.stderr)
        venv.create(folder, clear=True, with_pip=True)
        _install(python, _LISTS / f"{name}.txt")
        installed.write_text(wanted)
    return str(python)


def _install(python: Path, requirements: Path) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)]
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    if done.returncode:
        raise BenchmarkError(
            f"{requirements.name}: pip could not install the peer (code {done.returncode}); its errors stand above"
        )
