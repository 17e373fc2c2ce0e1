"""Section ``source.privacy``: which ids are hidden, and where the key to do so comes from. The key is in no config."""

import os
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from recspark.config.section import Section
from recspark.contracts.hidden_ids import MIN_KEY_BYTES, fingerprint_of
from recspark.errors import ConfigError

KEY_PLACE = ("source", "privacy", "key")
"""The one text whose ``${env:NAME}`` stays when a config is read: what a config holds is printed and stored."""

HMAC = "hmac"
_REFERENCE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
_MAKE_ONE = "such as `openssl rand -hex 32` prints"


def _refuse_plain_hash(value: Any) -> Any:
    """Names the reason where a hash without a key is asked for; all else is left to the choices."""
    if isinstance(value, str) and re.match(r"(plain|hash|md5|sha|blake|xxhash|murmur|crc)", value.strip().lower()):
        raise ValueError(
            f"{value!r} hides nothing: anyone can hash all ids there are and compare; take hmac, which needs the key"
        )
    return value


class PrivacyConfig(Section):
    """Ids hidden where the source is read: a keyed hash (HMAC-SHA-256, 64 hex digits) stands in their place.

    No table, quarantine, report or log holds one as found. Event and basket ids go with the users'; columns that are
    not mapped are hidden in the quarantine, and what cannot be read is shown there by its shape.
    """

    user_ids: Annotated[Literal["hmac"], BeforeValidator(_refuse_plain_hash)] = "hmac"
    """hmac, the one way: a hash without a key is undone by hashing all ids."""
    item_ids: Annotated[Literal["as_found", "hmac"], BeforeValidator(_refuse_plain_hash)] = "as_found"
    """as_found: items are seldom secret. hmac: theirs too; of an edge list, its nodes."""
    key_fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")] | None = None
    """The key's fingerprint, which ingest prints: another key is refused then, and stages that hide nothing (graph,
    walks, train, index, evaluate) run on machines without the key."""
    key: str
    """${env:NAME}: the environment variable with the secret key, 16 bytes or more, the same for all runs of a lake."""

    @field_validator("key", mode="before")
    @classmethod
    def _check_reference(cls, value: Any) -> Any:
        """A key that stands in a file is not repeated in the message either."""
        if not isinstance(value, str) or not _REFERENCE.fullmatch(value.strip()):
            raise ValueError("expected ${env:NAME}, a variable's name: a key in a file or a command line is no secret")
        return value.strip()

    @field_validator("key")
    @classmethod
    def _check_key(cls, value: str, info: ValidationInfo) -> str:
        wanted, key = info.data.get("key_fingerprint"), _read(value)
        name = _name_in(value)
        if key is None and wanted is None:
            raise ValueError(
                f"the environment variable {name} is not set; set it to {MIN_KEY_BYTES} or more random bytes, "
                f"{_MAKE_ONE}, or give source.privacy.key_fingerprint where only stages that hide nothing are to run"
            )
        if key is not None and len(key) < MIN_KEY_BYTES:
            raise ValueError(
                f"the environment variable {name} holds {len(key)} bytes, which can be guessed; expected "
                f"{MIN_KEY_BYTES} or more, {_MAKE_ONE}"
            )
        if key is not None and wanted is not None and fingerprint_of(key) != wanted:
            raise ValueError(
                f"the key in {name} has fingerprint {fingerprint_of(key)}, but source.privacy.key_fingerprint is "
                f"{wanted}: another key, under which every id is another; set the old one, or change the fingerprint "
                f"to build all anew"
            )
        return value

    @property
    def key_name(self) -> str:
        """The environment variable with the key."""
        return _name_in(self.key)

    @property
    def fingerprint(self) -> str:
        """What tells the key from others."""
        key = _read(self.key)
        return self.key_fingerprint or "" if key is None else fingerprint_of(key)

    def hides(self, owner: str) -> bool:
        """Whether the ids of ``user`` or ``item`` are hidden."""
        return (self.item_ids if owner == "item" else self.user_ids) == HMAC

    def read_key(self) -> bytes:
        """The key.

        Raises: ConfigError where it is not set, which a config with `key_fingerprint` allows.
        """
        key = _read(self.key)
        if key is None:
            raise ConfigError(
                f"source.privacy.key: the environment variable {self.key_name} is not set here, and ids have to be "
                f"hidden now; set it to the key with fingerprint {self.key_fingerprint}"
            )
        return key

    def to_record(self) -> dict[str, str]:
        """What decides the ids, as it is hashed and recorded."""
        return {"user_ids": self.user_ids, "item_ids": self.item_ids, "key_fingerprint": self.fingerprint}


def _name_in(reference: str) -> str:
    found = _REFERENCE.fullmatch(reference)
    assert found
    return found[1]


def _read(reference: str) -> bytes | None:
    """The key's bytes, None where the variable is not set."""
    found = os.environ.get(_name_in(reference))
    return None if found is None else os.fsencode(found)
