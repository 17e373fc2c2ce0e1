"""Logs that grow by files, and what ingest and sessions make of them, file by file or at once."""

import datetime as dt
import itertools
import random

from recspark.contracts import columns as c
from recspark.lake import arrow
from recspark.sessions import job
from recspark.sources.job import ingest
from tests.helpers import sessions_oracle
from tests.helpers.sources import make_run, write_lines

COLUMNS = {"user_id": "u", "item_id": "i", "ts": "t", "weight": "w", "event_type": "k", "basket_id": "b"}
HEADER = "u,i,t,w,k,b,note"
RULES = [{"name": "same_line", "duplicates": True}]


def to_line(event):
    """A CSV line of an event of `sessions_oracle.random_events`; the last column is not mapped."""
    time = dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=event["ts_us"])
    parts = [event[n] for n in ("user_id", "item_id")] + [time.isoformat(), event["weight"], event["event_type"]]
    return ",".join(map(str, [*parts, event["basket_id"] or "", event["event_id"][-1]]))


def dirty_lines(seed, num_events=120):
    """Lines in any order: late ones, exact duplicates, equal events that differ in an unmapped column, bad lines."""
    rng = random.Random(seed)
    events = sessions_oracle.random_events(seed, num_events)
    lines = [to_line(event) for event in events]
    again = rng.sample(lines, 12)
    other_note = [line[:-1] + rng.choice("xy") for line in rng.sample(lines, 8)]
    bad = [f",i{n % 2},2026-01-01,1,view,b1,bad" for n in range(4)]
    lines += again + other_note + bad
    rng.shuffle(lines)
    return lines


def cut_randomly(lines, num_files, seed):
    """The lines in files, the first of which holds half of them."""
    rng = random.Random(seed)
    half = len(lines) // 2
    files = [lines[:half], *([] for _ in range(num_files - 1))]
    for line in lines[half:]:
        rng.choice(files[1:]).append(line)
    return files


def draw_arrivals(lines, seed):
    """What comes at once, time after time: {file name: lines}; how many, how large and in which order is drawn.

    The first file holds half of the lines or more: enough for a vocabulary.
    """
    rng = random.Random(f"arrivals {seed}")
    num_files = rng.randint(3, 6)
    names = rng.sample([f"part-{n}.csv" for n in range(num_files)], num_files)
    ends = [0, *sorted(rng.sample(range(len(lines) // 2, len(lines)), num_files - 1)), len(lines)]
    files = {n: lines[start:end] for n, (start, end) in zip(names, itertools.pairwise(ends), strict=True)}
    cuts = [0, *sorted(rng.sample(range(1, num_files), rng.randint(1, min(3, num_files - 1)))), num_files]
    return [{name: files[name] for name in names[start:end]} for start, end in itertools.pairwise(cuts)]


def csv_source(folder, **more):
    """A few lines a file, of which any may be bad."""
    source = {"kind": "files", "path": str(folder), "format": "csv", "columns": COLUMNS, "rules": RULES}
    return source | {"max_bad_ratio": 1.0} | more


def build(spark, run):
    """Ingest and sessions, as a run does them."""
    for stage, work in (("ingest", ingest), ("sessions", job.build_sessions)):
        if arrow.find_done(run.lake, run.stages[stage]) is None:
            work(spark, run)
    return read(run)


def read(run):
    """All tables of both stages, with the records and quarantine slices by stage."""
    names = ("events", "items", "users", "user_histories", "sessions")
    tables = {n: arrow.read_table(arrow.find_table(run.lake, run.producer(n), n)).to_pylist() for n in names}
    records, refused = {}, {}
    for stage in ("ingest", "sessions"):
        record = records[stage] = arrow.find_done(run.lake, run.stages[stage])[1]
        at = arrow.TableAt(run.lake, "quarantine", record.tables["quarantine"], record)
        own = [row for row in arrow.read_table(at).to_pylist() if row["stage_key"] == record.key]
        refused[stage] = sorted((row["reason"], row["raw"]) for row in own)
    return {"tables": tables, "records": records, "refused": refused}


def write_files(folder, files):
    write_named(folder, {f"part-{number}.csv": lines for number, lines in enumerate(files)})


def write_named(folder, files):
    for name, lines in files.items():
        write_lines(folder / name, HEADER, *lines)


def plan(lake, folder, **sections):
    return make_run(lake, csv_source(folder), **sections)


def micros(time):
    return (time - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def to_oracle(events):
    """Rows of `events` as the oracle takes them."""
    return [{**e, "ts_us": micros(e[c.TS])} for e in events]
