"""Section `index` in a config: what no catalogue could meet is said at once, and what the index stage reads."""

import pytest

from recspark.config import load_config
from tests.helpers.configs import EDGES, keys_of, problems_of, write_minimal

PQ = "index.kind=ivf_pq"
PRICE = "features=[{name: price, path: x, key: k, column: c, kind: numeric}]"


@pytest.fixture
def conf(tmp_path):
    return write_minimal(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            [PQ, "index.m=67"],
            "index.m: 67 sub-vectors are more than model.embedding_dim 64; without padding go 1, 2, 4, 8, 16, 32, 64",
        ),
        (
            [PQ, "index.train_sample=200"],
            "index.train_sample: 200 vectors cannot train the 256 centroids of index.nbits 8; raise it",
        ),
        (
            ["index.nlist=300", "index.train_sample=200"],
            "index.nlist: 300 lists need as many training vectors, index.train_sample is 200; lower it or raise that",
        ),
        (["index.nlist=30", "index.nprobe=40"], "index.nprobe: 40 is more than index.nlist 30; lower it"),
        (
            ["index.kind=hnsw", "index.incremental={}"],
            "index.incremental: an hnsw graph cannot forget items; set index.kind to flat, ivf_flat or ivf_pq",
        ),
        (
            [PQ, "index.single_file=true", "index.nbits=4", "index.num_shards=2"],
            "index.single_file: faiss cannot join 4-bit codes of several shards; leave it out",
        ),
        (
            ["index.kind=flat", "index.backend=torch"],
            "index.backend: torch trains inverted lists, flat has none; leave it out",
        ),
        (
            [PQ, "index.backend=gpu", "index.nbits=4"],
            "index.nbits: faiss' IVFPQ has 8 bits only on a GPU; set index.nbits to 8, or index.backend to torch",
        ),
        (
            [PQ, "index.backend=gpu", "index.m=10"],
            "index.m: faiss' IVFPQ on a GPU takes 1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96; got 10",
        ),
        (["index.fill=[content]", PRICE], "index.fill: content needs an item feature of kind categorical or multi"),
        (
            ["index.fill=[neighbours]", "graph=null", "walks=null", "training.corpus=sessions"],
            "index.fill: neighbours needs the graph of a graph section",
        ),
        (
            ["index.kind=hnsw", "index.opq=true", "index.nprobe=3"],
            "index.nprobe, index.opq: index.kind hnsw has no inverted lists and no codes; leave them out",
        ),
        (["index.kind=ivf_flat", "index.m=4"], "index.m: index.kind ivf_flat has full vectors, no codes; leave it out"),
    ],
)
def test_what_no_catalogue_could_meet_is_told(conf, overrides, problem):
    assert problems_of(conf, *overrides) == [problem]


@pytest.mark.parametrize(
    "overrides",
    [
        [PQ, "index.m=66", "model.metric=ip"],
        [PQ, "index.m=48", "index.backend=gpu", "index.opq=true", "index.incremental={max_delta_share: 0.5}"],
        ["index.backend=torch", "index.m=16"],
        ["index.single_file=true", "index.kind=hnsw"],
        ["index.fill=[neighbours]", "index.timeout_seconds=60"],
        ["index.fill=[neighbours]", *EDGES],
    ],
)
def test_what_goes_together_loads(conf, overrides):
    assert load_config(conf, overrides).index


def test_patience_is_no_part_of_the_key(conf):
    assert keys_of(conf) == keys_of(conf, "index.timeout_seconds=5")
    assert keys_of(conf)["index"] != keys_of(conf, "index.opq=true")["index"]


def test_filling_in_reads_the_items_and_the_graph(conf):
    """A graph that changed, or features that did, change the index even where the model is the same."""
    knobs = {"[neighbours]": True, "[content]": False}
    text = "features=[{name: brand, path: x, key: k, column: c, kind: categorical}]"
    for fill, reads_graph in knobs.items():
        keys = [keys_of(conf, text, f"index.fill={fill}", "training.corpus=sessions", f"graph.{g}")
                for g in ("num_neighbours=50", "num_neighbours=40")]  # fmt: skip
        assert keys[0]["train"] == keys[1]["train"]
        assert (keys[0]["index"] != keys[1]["index"]) == reads_graph
