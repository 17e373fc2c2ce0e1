"""What `recspark verify` proves of a finished run: for the leak audit, from a run to its pinned tables and back.

The audit itself is `recspark.evaluate.leak`, which knows neither the config nor any stage's code.
"""

from collections.abc import Sequence
from typing import Any

from recspark.config import Run
from recspark.evaluate.leak.inputs import Audited
from recspark.evaluate.leak.report import NOTHING_HELD_OUT, LeakReport, describe_facts
from recspark.lake.arrow import TableAt, find_done
from recspark.lake.folders import read_manifest
from recspark.logs import timed
from recspark.pipeline.open_run import open_newest_run
from recspark.pipeline.plan import StageState

FACT = "leak_audit"
"""Under this name the commit of `metrics` records the audit."""
_STAGES = ("ingest", "sessions", "graph", "item_knn_graph", "als", "negatives", "graph_edges", "walks", "train")
_BASE = ("train", "walks", "sessions")
"""The run looked at is the newest that is finished with the first of these, where there is none with the next."""
_MODELS = "models"


def verify_leak(conf: str, overrides: Sequence[str]) -> LeakReport:
    """The leak audit of the newest finished run of a config.

    Raises: ConfigError for a wrong config; LakeError when nothing is built, or a table is damaged.
    """
    return audit_run(open_newest_run(conf, overrides, _BASE))


def audit_run(run: Run) -> LeakReport:
    """The leak audit of all that a run has built so far.

    Raises: LakeError when a table is damaged, or tables are of different builds.
    """
    from recspark.evaluate.leak.audit import audit  # with numba: a run whose stages are done does without

    with timed("verify", "leak audit") as shown:
        report = audit(_open_audited(run))
        facts = report.to_facts()
        shown.update(checks=len(report.checks), leaks=len(report.leaks), rows=facts["rows"])
    return report


def audit_facts(run: Run) -> dict[str, Any]:
    """The audit as an evaluation records it; no metric is worth anything where something has leaked.

    Raises: DataLeakError then; LakeError as `audit_run`.
    """
    report = audit_run(run)
    report.check_clean()
    return {FACT: report.to_facts()}


def audit_unevaluated(run: Run, states: Sequence[StageState]) -> str | None:
    """The audit's line for a run that has built something and has no evaluation to record it; None for others.

    Raises: as `audit_facts`.
    """
    if "evaluate" in run.stages or all(state.is_done for state in states):
        return None
    if run.config.source.kind == "edges":
        return f"leak audit: not applicable (held out: {NOTHING_HELD_OUT})"
    is_begun = find_done(run.lake, run.stages["sessions"]) is not None
    return describe_facts(audit_facts(run)[FACT]) if is_begun else None


def _open_audited(run: Run) -> Audited:
    tables: dict[str, TableAt] = {}
    absent = {name: _why_absent(run, name) for name in _STAGES if name not in run.stages}
    for name in _STAGES:
        done = find_done(run.lake, run.stages[name]) if name in run.stages else None
        if done:
            tables |= _tables_of(run, name, *done)
        elif name in run.stages:
            absent[name] = "not built yet"
    manifest = read_manifest(run.lake, _MODELS, run.stages["train"].id) if "train" in run.stages else None
    return Audited(run.lake, tables, absent, manifest.inputs if manifest else None)


def _tables_of(run: Run, stage: str, version: int, record: Any) -> dict[str, TableAt]:
    """The tables of a finished stage; that of a baseline's graph under the stage's name."""
    marker = run.stages[stage].spec.marker
    assert marker, "all of these stages end in a table"
    name = stage if stage == "item_knn_graph" else marker
    side = {table: TableAt(run.lake, table, number, record) for table, number in record.tables.items()}
    return side | {name: TableAt(run.lake, marker, version, record)}


def _why_absent(run: Run, stage: str) -> str:
    if run.config.source.kind == "edges":
        return f"held out is {NOTHING_HELD_OUT}"
    kind = run.config.model.kind
    if stage == "train":
        return f"{kind} ranks lists without vectors, which evaluate builds from the tables above"
    return f"the model, {kind}, and its baselines need no stage {stage}"
