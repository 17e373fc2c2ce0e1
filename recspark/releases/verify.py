"""The whole chain of a release checked again: manifests, files, versions of tables, vectors, quantizer, canaries.

verify_release(lake, row)  ->  [Check("table events", None), Check("indexes/3fa2...", "shard-00001.faiss: ..."), ...]
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from recspark.contracts.manifest import Manifest
from recspark.contracts.stages import RELEASE
from recspark.errors import RecsparkError, ReleaseError
from recspark.index.item_vectors import read_item_vectors
from recspark.index.search import ShardedIndex
from recspark.index.store import open_index
from recspark.lake.arrow import table_uri
from recspark.lake.folders import check_file, folder_uri, read_manifest
from recspark.lake.storage import join
from recspark.logs import timed
from recspark.releases.binding import (
    FOLDER,
    INDEXES,
    find_folder_flaw,
    find_table_flaw,
    hash_vectors,
    open_bound,
    sum_sizes,
    table_of,
)
from recspark.releases.canaries import FILE, find_canary_flaws, read_canaries
from recspark.releases.manifest import read_release_manifest
from recspark.releases.registry import ReleaseRow

_SHOWN_CANARIES = 3


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: ``flaw`` is what is wrong with it, None where nothing is."""

    name: str
    flaw: str | None

    def describe(self) -> str:
        """One line."""
        return f"ok      {self.name}" if self.flaw is None else f"DAMAGED {self.name}: {self.flaw}"


def verify_release(lake: str, row: ReleaseRow, with_contents: bool = True) -> list[Check]:
    """Every check of a published release; without a sound manifest, index or model those that need it are left out.

    Reads all files of model and index once, the item vectors, and, ``with_contents``, all data files of the tables;
    else tables are compared by their logs and file sizes.
    """
    try:
        manifest = read_release_manifest(lake, row)
    except ReleaseError as error:
        return [Check("manifest", str(error))]
    checks = [Check("manifest", None), *_check_files(lake, row, manifest)]
    checks += [_check_folder(lake, name, sha256) for name, sha256 in manifest.inputs["folders"].items()]
    checks += _check_tables(lake, manifest.inputs["tables"], with_contents)
    checks.append(_check_vectors(lake, manifest))
    if any(check.flaw for check in checks if check.name in (FILE, *manifest.inputs["folders"])):
        return checks  # faiss reads a damaged file without a word, or dies of it
    return [*checks, *_check_index(lake, row, manifest)]


def check_sound(lake: str, row: ReleaseRow, with_contents: bool = True) -> None:
    """Raises: ReleaseError with everything that `verify_release` finds wrong."""
    flaws = [f"{check.name}: {check.flaw}" for check in verify_release(lake, row, with_contents) if check.flaw]
    if flaws:
        raise ReleaseError(f"release {row.release_id} is damaged: " + "; ".join(flaws))


def _check_tables(lake: str, tables: dict[str, Any], with_contents: bool) -> list[Check]:
    said = "read the data files of all tables" if with_contents else "compared the logs of all tables"
    with timed(RELEASE.name, said) as shown:
        shown.update(sum_sizes(tables))
        flaws = {name: find_table_flaw(lake, name, bound, with_contents) for name, bound in tables.items()}
    return [Check(f"table {name}", flaw) for name, flaw in flaws.items()]


def _check_files(lake: str, row: ReleaseRow, manifest: Manifest) -> Iterator[Check]:
    for entry in manifest.files:
        try:
            check_file(lake, FOLDER, row.release_id, entry)
        except RecsparkError as error:
            yield Check(entry.path, str(error))
        else:
            yield Check(entry.path, None)


def _check_folder(lake: str, name: str, sha256: str) -> Check:
    """A bound folder: its manifest is the one that was bound, and each file of it as that says."""
    if flaw := find_folder_flaw(lake, name, sha256):
        return Check(name, flaw)
    kind, _, folder_id = name.partition("/")
    manifest = read_manifest(lake, kind, folder_id)
    assert manifest, "it has just been hashed"
    for entry in manifest.files:
        try:
            check_file(lake, kind, folder_id, entry)
        except RecsparkError as error:
            return Check(name, str(error))
    return Check(name, None)


def _check_vectors(lake: str, manifest: Manifest) -> Check:
    """The item vectors are those that the release was made with."""
    name = "vectors of item_embeddings"
    bound = manifest.inputs["tables"]["item_embeddings"]
    try:
        found = hash_vectors(read_item_vectors(open_bound(lake, "item_embeddings", bound), with_ids=True))
    except RecsparkError as error:
        return Check(name, str(error))
    if found == manifest.facts["vectors_sha256"]:
        return Check(name, None)
    where = f"{table_uri(lake, table_of('item_embeddings'))} at version {bound['version']}"
    return Check(name, f"{where}: other vectors or ids than the release was made with")


def _check_index(lake: str, row: ReleaseRow, manifest: Manifest) -> Iterator[Check]:
    try:
        index = open_index(lake, row.index_id, verify=False)  # its files were hashed above
    except RecsparkError as error:
        yield Check(f"{INDEXES}/{row.index_id} opens", str(error))
        return
    yield Check("counts", _find_count_flaw(index, manifest))
    yield Check("quantizer", _find_quantizer_flaw(index, manifest))
    canaries = read_canaries(join(folder_uri(lake, FOLDER, row.release_id), FILE))
    flaws = find_canary_flaws(index, canaries)
    shown = "; ".join(flaws[:_SHOWN_CANARIES])
    yield Check("canaries", f"{len(flaws)} of {len(canaries)} differ: {shown}" if flaws else None)


def _find_count_flaw(index: ShardedIndex, manifest: Manifest) -> str | None:
    wanted = manifest.counts["vectors"]
    return None if len(index) == wanted else f"the index holds {len(index)} vectors, the release was made with {wanted}"


def _find_quantizer_flaw(index: ShardedIndex, manifest: Manifest) -> str | None:
    found, wanted = index.facts["quantizer_fingerprint"], manifest.facts["index"]["quantizer_fingerprint"]
    return None if found == wanted else f"fingerprint {found[:12]}, the release was made with {wanted[:12]}"
