"""A trained model's towers as files for other runtimes: `recspark export CONF --towers`.

user_tower.pt2, user_tower.onnx   a history (and who it is of) -> the user's vector     torch.export, ONNX
item_tower.pt2, item_tower.onnx   an item's id vector, features and neighbours -> its vector; of models with any but the
                                  first
ranking_head.pt2, ranking_head.onnx   history, user vector, candidates -> their scores; of models with a ranking head
schema.json                       inputs, how features become numbers, how a score is made

Each program is compared with the trained model before it counts as written. Item vectors themselves are in
`item_embeddings`; the user tower holds those that a history is read by.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from recspark.config import Run
from recspark.contracts.manifest import Manifest
from recspark.errors import ConfigError, TrainingError
from recspark.evaluate.history_context import HistoryContext
from recspark.evaluate.ragged import Ragged
from recspark.evaluate.time_features import find_last
from recspark.index.item_vectors import read_item_vectors
from recspark.index.metric import COSINE
from recspark.lake.arrow import find_table
from recspark.lake.folders import read_manifest
from recspark.logs import log
from recspark.models.feature_sum import FeatureData
from recspark.models.ranking_head import RankingHead
from recspark.models.served_towers import ServedItemTower, ServedRankingHead, ServedUserTower
from recspark.models.towers import Towers, UserTower
from recspark.retrieval.rerank import Reranker, open_reranker
from recspark.retrieval.user_encoder import TowerEncoder, open_user_encoder
from recspark.training.starting_model import MODELS
from recspark.training.towers.files import read_item_tower
from recspark.training.towers.model import settle
from recspark.training.towers.result import ITEM_INPUTS

TOLERANCE = 1e-5
"""Largest difference to the trained model, relative to a vector's largest number."""
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_TRIED_LENGTHS = (1, 2, 5, 3)
_TRIED_US = 1_770_000_000_000_000
"""2026-02-02."""


def write_towers(run: Run, folder: Path) -> list[Path]:
    """Writes a trained run's towers; the files.

    Raises: ConfigError for a model without towers; TrainingError when a program does not compute what was trained;
    LakeError when the model is lost or damaged.
    """
    if not run.config.model.has_towers:
        raise ConfigError(
            f"export --towers: model.kind {run.config.model.kind} has no towers; take two_tower, mf or light_gcn"
        )
    manifest = read_manifest(run.lake, MODELS, run.stages["train"].id)
    assert manifest, "a finished training has one"
    embeddings = find_table(run.lake, run.stages["train"], "item_embeddings")
    vectors = read_item_vectors(embeddings)
    encoder = open_user_encoder(vectors, embeddings)
    assert isinstance(encoder, TowerEncoder)
    folder.mkdir(parents=True, exist_ok=True)
    user_tower, items = build_user_tower(run, encoder), vectors.item_idx
    written = _write_user_tower(user_tower, encoder, items, folder)
    arrays, features = read_item_tower(run.lake, manifest)
    if features.get("item") or ITEM_INPUTS in arrays:
        written += _write_item_tower(run, arrays, features["item"], folder)
    reranker = open_reranker(vectors, embeddings)
    if reranker:
        written += _write_ranking_head(run, reranker, folder)
    path = folder / "schema.json"
    path.write_text(json.dumps(_describe(manifest, encoder, features, ITEM_INPUTS in arrays, reranker), indent=1))
    return [*written, path]


def build_user_tower(run: Run, encoder: TowerEncoder) -> ServedUserTower:
    """The trained user tower of a run in torch."""
    config = settle(run).user
    history = config.history
    if encoder.tower.spec.pooling != history.pooling:  # mf and light_gcn: users as means of items
        plain = history.model_copy(
            update={"pooling": encoder.tower.spec.pooling, "length_power": encoder.tower.spec.length_power}
        )
        config = config.model_copy(update={"history": plain})
    tower = UserTower(config, [], run.config.model.embedding_dim, is_gated=False)
    tower.load_state_dict({name: torch.from_numpy(array) for name, array in encoder.tower.arrays.items()})
    tokens = _by_item(encoder.vectors.item_idx, encoder.vectors.queries)
    static = None
    if encoder.tower.static is not None and not encoder.tower.spec.static_first:
        assert encoder.tower.missing is not None
        static = torch.from_numpy(np.concatenate([encoder.tower.static, encoder.tower.missing[None]]))
    assert tower.pooling is not None
    spec = encoder.tower.spec
    return ServedUserTower(
        tokens, tower.pooling, tower.mlp, static, spec.unit_items, tower.times, spec.event_weights
    ).eval()


def _write_user_tower(tower: ServedUserTower, encoder: TowerEncoder, items: Any, folder: Path) -> list[Path]:
    """Both forms, compared on histories of several lengths, of known and unknown users."""
    lengths = [min(n, encoder.tower.spec.max_items or n) for n in _TRIED_LENGTHS]
    rows = [items[np.arange(n) * 7 % len(items)].tolist() for n in lengths]
    rows = [sorted(set(row)) for row in rows] if encoder.tower.spec.distinct else rows
    users = np.arange(len(rows)) - 1 if tower.static is not None else np.full(len(rows), -1)
    history = Ragged.from_rows(rows)
    places = np.arange(1, len(history.values) + 1)
    context = HistoryContext((places / 4).astype(np.float32), _TRIED_US + places * 977_000_000_000)
    moment_us = context.ts_us[history.offsets[1:] - 1] + places[: len(rows)] * 10**9  # type: ignore[index]
    context = context.at(moment_us, len(rows))
    expected = encoder.encode(history, users, context)
    longest = encoder.tower.spec.max_items or 4096
    batch, length = Dim("batch", min=1), Dim("length", min=1, max=longest) if longest > 1 else None
    named: dict[str, tuple[Tensor, Any]] = {
        "items": (_pad(history, history.values.astype(np.int64), -1), {0: batch, 1: length}),
        "user": (torch.from_numpy(users), {0: batch}),
    }
    if encoder.tower.spec.event_weights:
        named["weights"] = _pad(history, context.weight, 0), {0: batch, 1: length}
    if encoder.tower.spec.time_features:
        named["moment_us"] = torch.from_numpy(moment_us), {0: batch}
        named["last_us"] = torch.from_numpy(find_last(history, context.ts_us, moment_us)), {0: batch}  # type: ignore[arg-type]
    inputs, shapes = tuple(value for value, _ in named.values()), [shape for _, shape in named.values()]
    wanted = (*shapes[:2], tuple(shapes[2:])) if shapes[2:] else tuple(shapes)
    return _write(tower, inputs, wanted, expected, list(named), folder / "user_tower")


def _pad(history: Ragged, values: Any, filler: int) -> Tensor:
    """A value an event, as rows padded on the right."""
    is_there = np.arange(int(history.lengths.max())) < history.lengths[:, None]
    padded = np.full(is_there.shape, filler, values.dtype)
    padded[is_there] = values
    return torch.from_numpy(padded)


def _write_item_tower(run: Run, arrays: dict[str, Any], schema: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Both forms, compared with the trained module on a few codes and neighbours."""
    dim = run.config.model.embedding_dim
    towers = Towers(settle(run), dim, [_plain_feature(s) for s in schema], [], is_cosine=True)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    inputs_VD = tensors.pop(ITEM_INPUTS, None)
    towers.item.load_state_dict(tensors)
    tower = ServedItemTower(towers.item, inputs_VD).eval()
    inputs: list[Tensor] = [torch.linspace(-1, 1, 3 * dim).view(3, dim)]
    batch = Dim("batch", min=1)
    shapes: list[Any] = [{0: batch}]
    for number, one in enumerate(schema):
        if one["kind"] == "vector":
            inputs.append(torch.linspace(-1, 1, 3 * one["length"]).view(3, one["length"]))
            shapes.append({0: batch})
        else:
            inputs.append(torch.tensor([[0, -1], [1, -1], [1, 0]]))
            shapes.append({0: batch, 1: Dim(f"values_{number}", min=1)})
    names = ["id_vector", *(one["name"] for one in schema)]
    if inputs_VD is not None:
        wide = Dim("num_neighbours", min=1)
        inputs += [torch.tensor([[0, 1], [1, -1], [-1, -1]]), torch.tensor([[2.0, 1.0], [3.0, 0.0], [0.0, 0.0]])]
        shapes += [{0: batch, 1: wide}, {0: batch, 1: wide}]
        names += ["neighbours", "visits"]
    with torch.no_grad():
        expected = tower(*inputs).numpy()
    return _write(tower, tuple(inputs), (shapes[0], tuple(shapes[1:])), expected, names, folder / "item_tower")


def build_ranking_head(run: Run, reranker: Reranker) -> ServedRankingHead:
    """The trained ranking head of a run in torch."""
    towers, vectors = run.config.model.towers, reranker.vectors
    is_cosine = vectors.metric == COSINE
    max_items = towers.user.history.max_items
    head = RankingHead(towers.ranking, vectors.dim, max_items, is_cosine, towers.temperature)
    head.load_state_dict({name: torch.from_numpy(array) for name, array in reranker.head.arrays.items()})
    tokens, candidates, bias = (
        _by_item(vectors.item_idx, rows) for rows in (reranker.tokens, vectors.candidates, vectors.bias)
    )
    return ServedRankingHead(head, tokens, candidates, bias, is_cosine).eval()


def _write_ranking_head(run: Run, reranker: Reranker, folder: Path) -> list[Path]:
    """Both forms, compared on histories and candidate lists of several lengths."""
    items, most = reranker.vectors.item_idx, reranker.head.spec.max_items
    lengths = [min(n, most) for n in _TRIED_LENGTHS]
    history = Ragged.from_rows([items[np.arange(n) * 7 % len(items)].tolist() for n in lengths])
    candidates = np.stack([items[(np.arange(3) + n) * 5 % len(items)] for n in range(len(history))])
    users = torch.linspace(-1, 1, len(history) * reranker.vectors.dim).view(len(history), -1)
    expected = reranker.score(users.numpy(), history, reranker.vectors.rows_of(candidates))
    batch, length = Dim("batch", min=1), Dim("length", min=1, max=most)
    shapes = ({0: batch, 1: length}, {0: batch}, {0: batch, 1: Dim("candidates", min=1)})
    inputs = (_pad(history, history.values.astype(np.int64), -1), users, torch.from_numpy(candidates))
    names = ["items", "user_vector", "candidates"]
    head = build_ranking_head(run, reranker)
    return _write(head, inputs, shapes, expected, names, folder / "ranking_head", output="score")


def _by_item(item_idx: Any, rows: Any) -> Tensor:
    """Rows by item_idx; zeros for items without one."""
    table = torch.zeros(int(item_idx[-1]) + 1, *rows.shape[1:])
    table[torch.from_numpy(item_idx)] = torch.from_numpy(rows)
    return table


def _plain_feature(schema: dict[str, Any]) -> FeatureData:
    """A feature's sizes, without rows."""
    if schema["kind"] == "vector":
        return FeatureData(schema["name"], schema["length"], torch.zeros(0, schema["length"]), None)
    size = len(schema["vocabulary"]) + 1 if "vocabulary" in schema else len(schema["edges"]) + 2
    return FeatureData(schema["name"], size, torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))


def _write(
    module: nn.Module, inputs: tuple[Tensor, ...], shapes: Any, expected: Any, names: list[str], stem: Path,
    output: str = "vector",
) -> list[Path]:  # fmt: skip
    """The module by torch.export and, where its packages are there, by ONNX; read back and compared."""
    program = torch.export.export(module, inputs, dynamic_shapes=shapes)
    path = stem.with_suffix(".pt2")
    torch.export.save(program, path)
    with torch.no_grad():
        _check(torch.export.load(path).module()(*inputs).numpy(), expected, path)
    if lacking := [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]:
        log("export", f"{stem.name}.onnx is left out: {', '.join(lacking)} not installed; pip install 'recspark[onnx]'")
        return [path]
    return [path, _write_onnx(program, inputs, expected, names, output, stem.with_suffix(".onnx"))]


def _write_onnx(
    program: Any, inputs: tuple[Tensor, ...], expected: Any, names: list[str], output: str, path: Path
) -> Path:
    import onnxruntime

    torch.onnx.export(program, inputs, path, input_names=names, output_names=[output], external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = {one.name for one in session.get_inputs()}
    feeds = {name: value.numpy() for name, value in zip(names, inputs, strict=True) if name in wanted}
    _check(session.run(None, feeds)[0], expected, path)
    return path


def _check(found: Any, expected: Any, path: Path) -> None:
    difference = float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-12))
    if not difference <= TOLERANCE:
        path.unlink()
        raise TrainingError(
            f"{path}: differs from the trained model by {difference:.2g} of its largest number, expected at most "
            f"{TOLERANCE:g}; do not serve this model by this version of the runtime, `recspark query` is as trained"
        )


def _describe(
    manifest: Manifest,
    encoder: TowerEncoder,
    features: dict[str, Any],
    has_neighbours: bool,
    reranker: Reranker | None,
) -> dict[str, Any]:
    facts, spec = manifest.facts, encoder.tower.spec
    last, once = spec.max_items or "all", ", each once" if spec.distinct else ""
    own = "; users seen in training have a row in user_embeddings and take that" if spec.static_first else ""
    metric = facts["metric"]
    weights = {"weights": "float32 [batch, length]: the events' weights, 0 or more; 0 in padding"}
    times = {
        "moment_us": "int64 [batch]: when the user is asked for, microseconds since 1970 (UTC); below 0 for unknown",
        "last_us": "int64 [batch]: the time of the last event strictly before; below 0 without one",
    }
    return {
        "model_id": manifest.id,
        "model_kind": facts["model_kind"],
        "embedding_dim": facts["embedding_dim"],
        "score": f"{metric}(user vector, vector of item_embeddings) + bias; of several user vectors the largest",
        "user_tower": {
            "items": f"int64 [batch, length]: item_idx of the last {last} events that have a vector{once}, the newest "
            f"last, padded with -1 on the right",
            "user": f"int64 [batch]: user_idx, -1 for one unseen in training{own}",
            **(weights if spec.event_weights else {}),
            **(times if spec.time_features else {}),
        },
        "item_tower": _describe_item_tower(has_neighbours),
        **({"ranking_head": _describe_head(reranker)} if reranker else {}),
        "features": features,
        "codes": "0: missing or unseen; of a vocabulary place + 1; of edges 1 + how many are at or below the number",
        "versions": manifest.inputs,
    }


def _describe_head(reranker: Reranker) -> dict[str, Any]:
    spec = reranker.head.spec
    return {
        "items": f"as of user_tower, the last {spec.max_items}",
        "user_vector": "float32 [batch, embedding_dim]: as user_tower gives it",
        "candidates": f"int64 [batch, candidates]: item_idx of the first {spec.candidates} by `score`, those left out "
        f"that must not be listed",
        "score": "float32 [batch, candidates]: the list's order, ties to the smaller item_idx",
    }


def _describe_item_tower(has_neighbours: bool) -> dict[str, str]:
    found = {"id_vector": "float32 [batch, embedding_dim]: zeros for an item unseen in training"}
    if has_neighbours:
        found["neighbours"] = (
            "int64 [batch, num_neighbours]: item_idx of what short walks from the item over the user-item graph visit "
            "most, padded with -1; nothing but -1 for an item without events"
        )
        found["visits"] = "float32 [batch, num_neighbours]: how often they do; only their shares count"
    return found
