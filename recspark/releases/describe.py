"""Releases as text: a line each for `list`, all that one binds for `show`."""

import datetime as dt
from collections.abc import Iterator

from recspark.contracts.manifest import Manifest
from recspark.releases.activate import judge_release
from recspark.releases.gates import describe_gates
from recspark.releases.manifest import read_release_manifest
from recspark.releases.registry import Registry, ReleaseRow

_COLUMNS = ("release", "state", "created", "model", "index", "reason")


def describe_registry(registry: Registry) -> str:
    """One line a release, the newest last."""
    if not registry.rows:
        return f"no release in {registry.lake} yet; `recspark release publish CONF` makes one"
    lines = [_COLUMNS]
    for row in registry.rows.values():
        lines.append((row.release_id, row.state, _time(row.created_at), row.model_id, row.index_id, row.reason))
    widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS))]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def describe_release(registry: Registry, row: ReleaseRow) -> str:
    """State, figures, versions and hashes of one release, and how its gates stand.

    Raises: ReleaseError when its manifest is damaged.
    """
    lines = [f"release {row.release_id}  {row.state}: {row.reason}", *_describe_times(row)]
    if row.manifest_sha256 is None:
        return "\n".join(lines)
    manifest = read_release_manifest(registry.lake, row)
    lines += _describe_manifest(row, manifest)
    return "\n".join([*lines, "gates:", describe_gates(judge_release(registry, row))])


def _describe_times(row: ReleaseRow) -> Iterator[str]:
    yield f"  created   {_time(row.created_at)}, changed {_time(row.changed_at)}"
    if row.activated_at:
        yield f"  activated {_time(row.activated_at)}, before it: {row.previous_id or 'none'}"


def _describe_manifest(row: ReleaseRow, manifest: Manifest) -> Iterator[str]:
    index, facts = manifest.facts["index"], manifest.facts
    yield f"  run       {facts['run']} ({manifest.run_id}), recspark {manifest.code_version}"
    yield f"  vectors   {manifest.counts['vectors']:,} of {index['dim']} floats by {index['metric']}"
    effort = f", nprobe {index['nprobe']}" if index.get("nprobe") else ""
    yield f"  index     {len(index['shards'])} shards, quantizer {index['quantizer_fingerprint'][:12]}{effort}"
    yield f"  manifest  SHA-256 {row.manifest_sha256}"
    yield "tables:"
    for name, table in manifest.inputs["tables"].items():
        said = f"{table['rows']:,} rows in {table['files']} files, digest {table['digest'][:12]}"
        yield f"  {name:<18} version {table['version']:<5} {said}"
    yield "folders:"
    for name, sha256 in manifest.inputs["folders"].items():
        yield f"  {name:<24} manifest SHA-256 {sha256[:12]}"


def _time(time: dt.datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
