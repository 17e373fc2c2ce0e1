"""A trained model's towers as files for other runtimes: `recspark export CONF --towers`.

user_tower.pt2, user_tower.onnx   a history (and who it is of) -> the user's vector     torch.export, ONNX
item_tower.pt2, item_tower.onnx   an item's id vector, features and neighbours -> its vector; of models with any but the
                                  first
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
from recspark.evaluate.ragged import Ragged
from recspark.index.item_vectors import read_item_vectors
from recspark.lake.arrow import find_table
from recspark.lake.folders import read_manifest
from recspark.logs import log
from recspark.models.feature_sum import FeatureData
from recspark.models.served_towers import ServedItemTower, ServedUserTower
from recspark.models.towers import Towers, UserTower
from recspark.retrieval.user_encoder import TowerEncoder, open_user_encoder
from recspark.training.starting_model import MODELS
from recspark.training.towers.files import read_item_tower
from recspark.training.towers.model import settle
from recspark.training.towers.result import ITEM_INPUTS

TOLERANCE = 1e-5
"""Largest difference to the trained model, relative to a vector's largest number."""
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_TRIED_LENGTHS = (1, 2, 5, 3)


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
    path = folder / "schema.json"
    path.write_text(json.dumps(_describe(manifest, encoder, features, ITEM_INPUTS in arrays), indent=1))
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
    tokens = torch.zeros(int(encoder.vectors.item_idx[-1]) + 1, encoder.vectors.dim)
    tokens[torch.from_numpy(encoder.vectors.item_idx)] = torch.from_numpy(encoder.vectors.queries)
    static = None
    if encoder.tower.static is not None and not encoder.tower.spec.static_first:
        assert encoder.tower.missing is not None
        static = torch.from_numpy(np.concatenate([encoder.tower.static, encoder.tower.missing[None]]))
    assert tower.pooling is not None
    return ServedUserTower(tokens, tower.pooling, tower.mlp, static, encoder.tower.spec.unit_items).eval()


def _write_user_tower(tower: ServedUserTower, encoder: TowerEncoder, items: Any, folder: Path) -> list[Path]:
    """Both forms, compared on histories of several lengths, of known and unknown users."""
    lengths = [min(n, encoder.tower.spec.max_items or n) for n in _TRIED_LENGTHS]
    rows = [items[np.arange(n) * 7 % len(items)].tolist() for n in lengths]
    rows = [sorted(set(row)) for row in rows] if encoder.tower.spec.distinct else rows
    users = np.arange(len(rows)) - 1 if tower.static is not None else np.full(len(rows), -1)
    expected = encoder.encode(Ragged.from_rows(rows), users)
    longest = max(map(len, rows))
    padded = torch.full((len(rows), longest), -1)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = torch.tensor(row)
    batch, length = Dim("batch", min=1), Dim("length", min=1, max=encoder.tower.spec.max_items or 4096)
    shapes = ({0: batch, 1: length}, {0: batch})
    return _write(tower, (padded, torch.from_numpy(users)), shapes, expected, ["items", "user"], folder / "user_tower")


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


def _plain_feature(schema: dict[str, Any]) -> FeatureData:
    """A feature's sizes, without rows."""
    if schema["kind"] == "vector":
        return FeatureData(schema["name"], schema["length"], torch.zeros(0, schema["length"]), None)
    size = len(schema["vocabulary"]) + 1 if "vocabulary" in schema else len(schema["edges"]) + 2
    return FeatureData(schema["name"], size, torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))


def _write(
    module: nn.Module, inputs: tuple[Tensor, ...], shapes: Any, expected: Any, names: list[str], stem: Path
) -> list[Path]:
    """The module by torch.export and, where its packages are there, by ONNX; read back and compared."""
    program = torch.export.export(module, inputs, dynamic_shapes=shapes)
    path = stem.with_suffix(".pt2")
    torch.export.save(program, path)
    with torch.no_grad():
        _check(torch.export.load(path).module()(*inputs).numpy(), expected, path)
    if lacking := [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]:
        log("export", f"{stem.name}.onnx is left out: {', '.join(lacking)} not installed; pip install 'recspark[onnx]'")
        return [path]
    return [path, _write_onnx(program, inputs, expected, names, stem.with_suffix(".onnx"))]


def _write_onnx(program: Any, inputs: tuple[Tensor, ...], expected: Any, names: list[str], path: Path) -> Path:
    import onnxruntime

    torch.onnx.export(program, inputs, path, input_names=names, output_names=["vector"], external_data=False)
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
    manifest: Manifest, encoder: TowerEncoder, features: dict[str, Any], has_neighbours: bool
) -> dict[str, Any]:
    facts, spec = manifest.facts, encoder.tower.spec
    last, once = spec.max_items or "all", ", each once" if spec.distinct else ""
    own = "; users seen in training have a row in user_embeddings and take that" if spec.static_first else ""
    metric = facts["metric"]
    return {
        "model_id": manifest.id,
        "model_kind": facts["model_kind"],
        "embedding_dim": facts["embedding_dim"],
        "score": f"{metric}(user vector, vector of item_embeddings) + bias; of several user vectors the largest",
        "user_tower": {
            "items": f"int64 [batch, length]: item_idx of the last {last} events that have a vector{once}, the newest "
            f"last, padded with -1 on the right",
            "user": f"int64 [batch]: user_idx, -1 for one unseen in training{own}",
        },
        "item_tower": _describe_item_tower(has_neighbours),
        "features": features,
        "codes": "0: missing or unseen; of a vocabulary place + 1; of edges 1 + how many are at or below the number",
        "versions": manifest.inputs,
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
