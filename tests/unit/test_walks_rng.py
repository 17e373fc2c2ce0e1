import numpy as np
import pytest
from numba import njit
from scipy import stats

from recspark.contracts.shards import hash_ids
from recspark.walks.rng import GOLDEN, absorb, draw, mix, unit


@njit
def many_units(key, first, count):
    out = np.empty(count)
    for i in range(count):
        out[i] = unit(draw(key, np.uint64(first + i)))
    return out


@njit
def units_of_keys(root, count):
    out = np.empty(count)
    for i in range(count):
        out[i] = unit(draw(absorb(root, i), np.uint64(0)))
    return out


def plain_mix(bits):
    """splitmix64's finaliser in Python integers, from the paper's C code."""
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) % 2**64
    return bits ^ (bits >> 31)


@pytest.mark.parametrize("bits", [0, 1, 2**31, 2**63, 2**64 - 1, 1234567890123456789])
def test_mix_is_splitmix64s_finaliser(bits):
    assert int(mix(np.uint64(bits))) == plain_mix(bits)


def test_draws_are_the_published_splitmix64_stream():
    # First outputs for seed 1234567 (Rosetta Code, "Pseudo-random numbers/Splitmix64").
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [int(draw(np.uint64(1234567), np.uint64(i))) for i in (1, 2, 3, 4)] == expected


def test_mix_agrees_with_the_hash_of_shards():
    assert int(mix(np.uint64(5) + GOLDEN)) == int(hash_ids(np.array([5]), seed=0)[0])


def test_absorb_depends_on_order_and_on_every_value():
    def key(*values):
        found = np.uint64(1)
        for value in values:
            found = np.uint64(absorb(found, value))
        return int(found)

    keys = {key(*values) for values in np.ndindex(7, 7, 7)}
    assert len(keys) == 7**3


def test_unit_covers_zero_to_one():
    assert unit(np.uint64(0)) == 0.0
    assert unit(np.uint64(2**64 - 1)) == 1.0 - 2.0**-53


@pytest.mark.parametrize("values", [many_units(np.uint64(3), 0, 1_000_000), units_of_keys(np.uint64(3), 1_000_000)],
                         ids=["one key, many counters", "many keys, one counter"])  # fmt: skip
def test_draws_are_uniform_and_independent(values):
    counts = np.bincount((values * 1000).astype(int), minlength=1000)
    assert stats.chisquare(counts).pvalue > 1e-3
    pairs = np.bincount((values[:-1:2] * 30).astype(int) * 30 + (values[1::2] * 30).astype(int), minlength=900)
    assert stats.chisquare(pairs).pvalue > 1e-3
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 4 / 1000
