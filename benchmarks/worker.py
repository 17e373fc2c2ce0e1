"""Both sides of a pair as processes that stay: set up once, run many times, asked over pipes by lines of JSON.

{"call": "run", "epochs": 1}  ->  {"wall": 4.1, "cpu": 4.1}

A side's own environment, threads and packages are thereby its own. Needs the standard library only: peers live in
virtual environments without recspark.
"""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class WorkerError(Exception):
    """A side ended or raised."""


class Worker:
    """A child process that serves calls. Use as a context manager: it ends with the block."""

    def __init__(self, module: str, python: str = sys.executable, environment: dict[str, str] | None = None) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [python, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | ONE_THREAD | {"PYTHONPATH": str(ROOT)} | (environment or {}),
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ask(self, call: str, **arguments: Any) -> dict[str, Any]:
        """The answer of a call.

        Raises: WorkerError with what the side said.
        """
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"call": call, **arguments}) + "\n")
        self._process.stdin.flush()
        text = self._process.stdout.readline()
        if not text:
            raise WorkerError(
                f"{self._module}: ended with {self._process.wait()} during {call!r}; see its errors above"
            )
        answer: dict[str, Any] = json.loads(text)
        if "error" in answer:
            raise WorkerError(f"{self._module}: {call} failed:\n{answer['error']}")
        return answer


def serve(calls: dict[str, Callable[..., dict[str, Any] | None]]) -> None:
    """Answers calls until standard input ends. What libraries print goes to standard error."""
    answers = take_stdout()
    for text in sys.stdin:
        arguments = json.loads(text)
        try:
            answer = calls[arguments.pop("call")](**arguments) or {}
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def take_stdout() -> Any:
    """The real standard output; from here on everything else that is printed goes to standard error."""
    sys.stdout.flush()
    kept = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return kept
