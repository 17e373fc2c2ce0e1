"""A release's manifest, read with the distrust that a reader owes it."""

from recspark.contracts.manifest import MANIFEST_NAME, Manifest
from recspark.errors import LakeError, ReleaseError
from recspark.lake.folders import folder_uri, read_manifest
from recspark.lake.storage import join
from recspark.releases.binding import FOLDER, find_folder_flaw, hash_manifest
from recspark.releases.registry import ReleaseRow


def read_release_manifest(lake: str, row: ReleaseRow) -> Manifest:
    """The manifest of a published release.

    Raises: ReleaseError when it is missing, is no manifest, or is not the one that was published.
    """
    uri = join(folder_uri(lake, FOLDER, row.release_id), MANIFEST_NAME)
    try:
        found = hash_manifest(lake, FOLDER, row.release_id)
        manifest = read_manifest(lake, FOLDER, row.release_id)
    except (LakeError, ReleaseError) as error:
        raise ReleaseError(f"release {row.release_id}: {error}") from error
    if row.manifest_sha256 is None:
        raise ReleaseError(f"release {row.release_id}: {row.state}, {row.reason}: nothing has been published under it")
    if manifest is None or found != row.manifest_sha256:
        raise ReleaseError(
            f"{uri}: SHA-256 {found[:12]}, published was {row.manifest_sha256[:12]}: edited since; restore it, or "
            f"activate another release"
        )
    return manifest


def check_folders(lake: str, row: ReleaseRow, manifest: Manifest) -> None:
    """Checks that every folder that a release binds is the one it was made with, by the hash of its manifest.

    Raises: ReleaseError where one is gone, or was built anew.
    """
    for name, sha256 in manifest.inputs["folders"].items():
        if flaw := find_folder_flaw(lake, name, sha256):
            raise ReleaseError(f"release {row.release_id}: {flaw}; activate another release")
