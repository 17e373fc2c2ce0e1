"""Ablations: every variant is a config that loads and differs from the others in what it says."""

import pytest

from benchmarks.ablation import DATASETS, MODEL, run_ablation
from benchmarks.lines import BenchmarkError
from benchmarks.quality import find_conf
from recspark.config import load_config


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_variant_loads_and_is_another_model(dataset: str) -> None:
    conf = find_conf(dataset, MODEL)
    models = {name: load_config(conf, changed).model for name, changed in DATASETS[dataset].items()}
    for name, changed in DATASETS[dataset].items():
        is_default = changed and models[name] == models["as it is"]
        assert not is_default or name == "pooling decay", name


def test_a_data_set_without_one_is_told() -> None:
    with pytest.raises(BenchmarkError, match=r"ablation: no data set 'dblp'; one of gowalla, s3-beauty"):
        next(run_ablation("dblp", [1], [], ""))
