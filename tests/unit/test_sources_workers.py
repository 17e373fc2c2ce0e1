"""What Spark's workers load for our functions: neither the config's libraries nor an engine of another side."""

import json
import subprocess
import sys

import pytest
from pyspark import cloudpickle

from recspark.config.schema import SessionsConfig
from recspark.config.source import SyntheticSource
from recspark.sessions.histories import build_histories
from recspark.sessions.sessionize import build_sessions_of, plan_rules
from recspark.sources.privacy import make_hide
from recspark.sources.synthetic import make_generator

FORBIDDEN = {"pydantic", "yaml", "deltalake", "torch", "faiss"}
WORKER_MODULES = [
    "recspark.contracts.hidden_ids",
    "recspark.sources.synthetic",
    "recspark.sources.planted",
    "recspark.sessions.user_events",
    "recspark.sessions.sessionize",
    "recspark.sessions.histories",
]
IMPORT = "import importlib, json, sys; importlib.import_module(sys.argv[1]); print(json.dumps(sorted(sys.modules)))"
UNPICKLE_AND_CALL = """
import json, pickle, sys
import pyarrow as pa
function, batches = pickle.load(sys.stdin.buffer)
rows = sum(b.num_rows for b in function(iter(batches))) if batches else 0
print(json.dumps({"rows": rows, "modules": sorted(sys.modules)}))
"""


def run_fresh(code, *arguments, given=b""):
    """What a fresh interpreter prints last, read as JSON."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], input=given, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("module", WORKER_MODULES)
def test_a_worker_module_loads_no_library_of_the_config(module):
    assert FORBIDDEN & set(run_fresh(IMPORT, module)) == set()


def test_the_generator_runs_on_a_worker_without_the_config():
    import pyarrow as pa

    function = make_generator(SyntheticSource(num_users=5, num_items=9, num_clusters=2), 1, 1025)
    users = pa.record_batch({"id": pa.array(range(5), pa.int64())})
    found = run_fresh(UNPICKLE_AND_CALL, given=cloudpickle.dumps((function, [users])))
    assert found["rows"] == sum(batch.num_rows for batch in function(iter([users]))) > 5
    assert FORBIDDEN & set(found["modules"]) == set()


def test_the_session_kernels_arrive_on_a_worker_without_the_config():
    kernels = (build_histories, build_sessions_of, plan_rules(SessionsConfig(), "time"))
    found = run_fresh(UNPICKLE_AND_CALL, given=cloudpickle.dumps((kernels, [])))
    assert "recspark.sessions.sessionize" in found["modules"]
    assert FORBIDDEN & set(found["modules"]) == set()


def test_the_keyed_hash_arrives_on_a_worker_without_the_config():
    function = make_hide(b"k" * 16).func
    found = run_fresh(UNPICKLE_AND_CALL, given=cloudpickle.dumps((function, [])))
    assert "recspark.contracts.hidden_ids" in found["modules"]
    assert FORBIDDEN & set(found["modules"]) == set()
