"""Hidden ids against Python's own HMAC and a published vector."""

import hmac

import pyarrow as pa

from recspark.contracts.hidden_ids import fingerprint_of, hide_all, hide_id


def test_a_hash_is_that_of_the_standard():
    """RFC 4231, test case 2."""
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert hide_id(b"Jefe", b"what do ya want for nothing?") == expected


def test_hashes_are_those_of_python():
    texts = [b"", b"anna", None, b"anna", "zo\u00eb \U0001f600".encode(), b"\xff\x00", b"x" * 100_000]
    expected = [None if t is None else hmac.new(b"k" * 40, t, "sha256").hexdigest() for t in texts]
    assert hide_all(b"k" * 40, pa.array(texts, pa.binary())).to_pylist() == expected


def test_an_array_of_nothing_stays_one():
    for texts in ([], [None, None]):
        assert hide_all(b"k" * 16, pa.array(texts, pa.binary())).to_pylist() == texts


def test_a_fingerprint_is_a_keyed_hash_itself():
    assert fingerprint_of(b"k" * 16) == hmac.new(b"k" * 16, b"recspark id key", "sha256").hexdigest()[:12]
