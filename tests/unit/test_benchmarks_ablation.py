"""Ablations: every variant is a config that loads and differs from the others in what it says."""

from typing import Any

import pytest

from benchmarks.ablation import DATASETS, MODEL, run_ablation
from benchmarks.ablation_table import render_ablation
from benchmarks.lines import BenchmarkError
from benchmarks.quality import find_conf
from benchmarks.render import render_quality
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


def line_of(variant: str, value: float, changed: list[str], seeds: tuple[int, ...] = (1,)) -> dict[str, Any]:
    return {
        "bench": "quality", "dataset": "s3-beauty", "model": f"two_tower, {variant}", "model_kind": "two_tower",
        "metric": "hr@10", "value": value, "std": 0.0, "seeds": list(seeds), "values": [value], "cpu_seconds": 9.0,
        "command": "python -m benchmarks ablation s3-beauty", "versions": {}, "changed": changed,
    }  # fmt: skip


def test_the_report_has_variants_apart_and_says_how_far_they_are_from_the_unchanged_one() -> None:
    own = line_of("", 0.05, []) | {"model": "two_tower"}
    del own["changed"]
    lines = [own, line_of("as it is", 0.08, []), line_of("no logQ", 0.06, ["a.b=false"]), line_of("bpr", 0.1, [], (2,))]
    text = render_quality(lines)
    assert "- Best hr@10: two_tower, a learned model, .0500." in text  # no variant is judged as a model
    assert "| variant | changed | hr@10 | seeds |" in text
    assert "| as it is | - | 0.0800 | 1 |" in text
    assert "| no logQ | `a.b=false` | 0.0600 (-25.0 %) | 1 |" in text
    assert "| bpr | - | 0.1000 | 2 |" in text  # other seeds are not compared


def test_a_set_without_variants_has_no_such_table() -> None:
    assert render_ablation([]) == ""
