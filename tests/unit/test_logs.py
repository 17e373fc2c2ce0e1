"""One line a stage, for people or for programs; faults that tests arm."""

import json
import signal
import subprocess
import sys

from recspark.logs import Progress, log, timed


def test_json_lines_where_a_program_reads(capsys, monkeypatch):
    monkeypatch.setenv("RECSPARK_LOG_FORMAT", "json")
    log("graph", "done", num_items=3, share=0.25)
    line = json.loads(capsys.readouterr().err)
    assert line.pop("time").endswith("Z")
    assert line == {"stage": "graph", "message": "done", "num_items": 3, "share": 0.25}


def test_text_lines_for_people(capsys, monkeypatch):
    monkeypatch.setenv("RECSPARK_LOG_FORMAT", "text")
    log("graph", "done", num_items=12345, share=0.25)
    assert capsys.readouterr().err == "graph      done: 12,345 items, 0.25 share\n"


def test_timed_adds_seconds(capsys, monkeypatch):
    monkeypatch.setenv("RECSPARK_LOG_FORMAT", "json")
    with timed("graph", "finished") as facts:
        facts["num_edges"] = 7
    line = json.loads(capsys.readouterr().err)
    assert line["num_edges"] == 7
    assert 0 <= line["seconds"] < 5


def test_progress_is_logged_at_the_end_and_not_at_each_step(capsys, monkeypatch):
    monkeypatch.setenv("RECSPARK_LOG_FORMAT", "json")
    progress = Progress("train", total=1000, unit="tokens")
    for done in range(0, 1001, 10):
        progress.update(done, loss=0.5)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["done"], line["total"], line["loss"]) for line in lines] == [(1000, 1000, 0.5)]


def test_an_armed_fault_kills_and_others_do_not():
    code = "from recspark.faults import fault_point as f; f('a'); print('a passed', flush=True); f('b'); print('b')"
    environment = {"RECSPARK_FAULT": "b", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == "a passed\n"
