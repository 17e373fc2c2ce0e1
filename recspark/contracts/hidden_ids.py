"""Ids as a keyed hash: HMAC-SHA-256 in hex, and what tells two keys apart.

b"anna@example.org"   ->   "5f0c2a..." (64 digits), what hmac.new(key, id, "sha256").hexdigest() says anywhere else

Who has a list of ids can hash all of them and compare; without the key, not with these. Source: RFC 2104.
"""

import hmac

import pyarrow as pa

MIN_KEY_BYTES = 16
"""Of a key: 128 bits, where they are random; fewer can be tried one by one."""
_FINGERPRINT_DIGITS = 12
_FINGERPRINT_OF = b"recspark id key"


def hide_id(key: bytes, found: bytes) -> str:
    """The keyed hash of an id's bytes (UTF-8) as found, in hex."""
    return hmac.digest(key, found, "sha256").hex()


def fingerprint_of(key: bytes) -> str:
    """12 hex digits that differ where keys do, and say nothing of the key that its hashes do not."""
    return hide_id(key, _FINGERPRINT_OF)[:_FINGERPRINT_DIGITS]


def hide_all(key: bytes, found: pa.Array) -> pa.Array:
    """The keyed hashes of a binary array; nulls stay. An id that comes often is hashed once."""
    distinct = found.dictionary_encode()
    hidden = [hide_id(key, one) for one in distinct.dictionary.to_pylist()]
    return pa.array(hidden, pa.string()).take(distinct.indices)
