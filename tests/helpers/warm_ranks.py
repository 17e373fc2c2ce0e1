"""Ranks forked from one process that has loaded torch: loading it anew costs each of them seconds.

python -m tests.helpers.warm_ranks

Reads a JSON request a line: environment, module, function, arguments, files for output and errors. Answers
``started PID``, and ``ended PID CODE`` when that process has. A forked process does what it was asked for and ends as a
program of its own would, whichever way that is.
"""

import atexit
import importlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from recspark.ending import calm_ending

PRELOADED = ("torch.distributed.checkpoint", "recspark.training.job", "recspark.training.torch_backend", "pytest")


class WarmRank:
    """One forked process, as far as `subprocess.Popen` is needed."""

    def __init__(self, server: "WarmServer", args: Any, pid: int, files: tuple[Path, Path]) -> None:
        self.args, self.pid, self.returncode = args, pid, None
        self._server, self._files = server, files

    def poll(self) -> int | None:
        """The exit code, minus the signal that ended it; None while it runs."""
        self.returncode = self._server.find_code(self.pid)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it said, once it has ended.

        Raises: subprocess.TimeoutExpired when it has not in time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self._server.wait(left)
        out, err = (path.read_text() for path in self._files)
        return out, err


class WarmServer:
    """The process that forks ranks, and what it has said so far."""

    def __init__(self, root: Path) -> None:
        command = [sys.executable, "-m", "tests.helpers.warm_ranks"]
        # Read once, when a library is loaded.
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, cwd=root)
        self._folder = Path(tempfile.mkdtemp(prefix="warm-ranks-"))
        self._said, self._pids, self._codes = b"", [], {}
        atexit.register(self._end)

    def _end(self) -> None:
        self._process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self, environment: dict[str, str], module: str, function: str, arguments: dict[str, Any]) -> WarmRank:
        """Starts a rank in a session of its own."""
        number = len(self._pids)
        files = self._folder / f"{number}.out", self._folder / f"{number}.err"
        request = {"environment": environment, "module": module, "function": function, "arguments": arguments}
        request["files"] = [str(path) for path in files]
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        while len(self._pids) == number:
            self.wait(None)
        return WarmRank(self, [module, function], self._pids[number], files)

    def find_code(self, pid: int) -> int | None:
        """How a rank has ended, None while it runs."""
        self.wait(0)
        return self._codes.get(pid)

    def wait(self, timeout: float | None) -> None:
        """Takes in what the server says, waiting for it so long."""
        assert self._process.stdout
        pipe = self._process.stdout.fileno()
        if not select.select([pipe], [], [], timeout)[0]:
            return
        found = os.read(pipe, 65536)
        assert found, "the process that forks ranks has ended"
        *lines, self._said = (self._said + found).split(b"\n")
        for word, pid, *code in map(bytes.split, lines):
            if word == b"started":
                self._pids.append(int(pid))
            else:
                self._codes[int(pid)] = int(code[0])


def serve() -> dict[str, Any]:
    """Forks a process a request until there are no more; in such a process, returns the request."""
    for name in PRELOADED:
        importlib.import_module(name)
    woken, read = _wake_at_ends(), b""
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _tell_ended()
        if 0 in ready:
            found = os.read(0, 65536)
            if not found:
                os._exit(0)
            *lines, read = (read + found).split(b"\n")
            for request in map(json.loads, lines):
                if (pid := os.fork()) == 0:
                    _become_rank(request)
                    return request
                _tell(f"started {pid}")


def _wake_at_ends() -> int:
    """A pipe that has something to read whenever a child has ended."""
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    return woken


def _tell(words: str) -> None:
    os.write(1, f"{words}\n".encode())


def _tell_ended() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _tell(f"ended {pid} {os.waitstatus_to_exitcode(status)}")


def _become_rank(request: dict[str, Any]) -> None:
    """A session, streams, signals and an environment as a process has that is started anew."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    out, err = (os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for path in request["files"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    for given, stream in ((nothing, 0), (out, 1), (err, 2)):
        os.dup2(given, stream)
        os.close(given)
    os.environ.clear()
    os.environ.update(request["environment"])


if __name__ == "__main__":
    asked = serve()
    with calm_ending():
        getattr(importlib.import_module(asked["module"]), asked["function"])(**asked["arguments"])
