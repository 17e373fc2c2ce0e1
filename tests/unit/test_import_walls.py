"""The walls, at run time: what a module really loads in a fresh interpreter. (Statically: `make check`.)"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINES = {"pyspark", "torch", "faiss", "deltalake", "pydantic", "numba"}
CASES = {
    "recspark.contracts.tables": set(),
    "recspark.errors": set(),
    "recspark.logs": set(),
    "recspark.config": {"pydantic"},
    "recspark.cli": set(),
    "recspark.lake.arrow": {"deltalake"},
    "recspark.lake.failures": set(),
    "recspark.lake.spark": {"deltalake", "pydantic", "pyspark"},
    "recspark.pipeline.plan": {"deltalake", "pydantic"},
    "recspark.pipeline.launch": {"deltalake", "pydantic"},
    "recspark.graph.kernel": {"numba"},
    "recspark.graph.csr": {"numba"},
    "recspark.walks.kernel": {"numba"},
    "recspark.evaluate.ranking": {"numba", "deltalake"},
    "recspark.evaluate.ranking_head": set(),
    "recspark.evaluate.leak.audit": {"numba", "deltalake"},
    "recspark.pipeline.verify": {"deltalake", "pydantic"},
    "recspark.report.summary": {"deltalake"},
    "recspark.sources.planted": set(),
    "recspark.sources.wanted": set(),
    "recspark.sources.look": {"deltalake", "pydantic"},
    "recspark.pipeline.open_run": {"deltalake", "pydantic"},
    "recspark.sources.job": {"deltalake", "pydantic", "pyspark"},
    "recspark.sessions.job": {"deltalake", "pydantic", "pyspark"},
    "recspark.graph.job": {"deltalake", "pydantic", "pyspark", "numba"},
    "recspark.walks.job": {"deltalake", "pydantic", "pyspark", "numba"},
    "recspark.training.job": {"deltalake", "pydantic", "torch", "numba"},
    "recspark.index.job": {"deltalake", "pydantic", "faiss", "numba"},
    "recspark.index.search": {"deltalake", "faiss"},
    "recspark.index.store": {"deltalake", "faiss"},
    "recspark.index.filters": {"deltalake"},
    "recspark.index.steps": set(),
    "recspark.pipeline.index_job": {"deltalake", "pydantic"},
    "recspark.baselines.item_knn": {"deltalake", "pydantic", "numba"},
    "recspark.baselines.registry": {"deltalake", "pydantic", "numba"},
    "recspark.training.closed_form": {"deltalake", "pydantic", "numba"},
    "recspark.pipeline.rankers": {"deltalake", "pydantic", "numba"},
    "recspark.pipeline.limits": {"deltalake", "pydantic"},
    "recspark.memory": set(),
    "recspark.cli_releases": set(),
    "recspark.evaluate.lists": set(),
    "recspark.retrieval.recommend": {"deltalake"},
    "recspark.retrieval.rerank": {"deltalake"},
    "recspark.retrieval.serving": {"deltalake"},
    "recspark.releases.registry": {"deltalake"},
    "recspark.releases.gates": {"deltalake"},
    "recspark.releases.reader": {"deltalake", "faiss"},
    "recspark.releases.publish": {"deltalake", "faiss"},
    "recspark.releases.garbage": {"deltalake"},
    "recspark.pipeline.release": {"deltalake", "pydantic"},
    "recspark.pipeline.recommend": {"deltalake", "pydantic", "numba"},
    "recspark.pipeline.recommend_spark": {"deltalake", "pydantic", "numba", "pyspark"},
}
PROBE = "import importlib, json, sys; importlib.import_module(sys.argv[1]); print(json.dumps(sorted(sys.modules)))"


@pytest.mark.parametrize("module", CASES)
def test_a_module_loads_only_its_own_engines(module):
    done = subprocess.run(
        [sys.executable, "-c", PROBE, module], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    loaded = ENGINES & set(json.loads(done.stdout.splitlines()[-1]))
    assert loaded <= CASES[module]


def test_the_map_names_every_module_of_training_once():
    section = (ROOT / "ARCHITECTURE.md").read_text().split("### The modules of `training`")[1].split("\n## ")[0]
    named = [name for row in re.findall(r"^\|[^|]*\| `([^`|]*)` \|", section, re.MULTILINE) for name in row.split()]
    room = ROOT / "recspark" / "training"
    there = [path.relative_to(room).with_suffix("") for path in room.rglob("*.py") if path.stem != "__init__"]
    assert sorted(named) == sorted(".".join(path.parts) for path in there)
