"""Arithmetic on rows that the CPU kernel is made of: sigmoid, costs, gathering, Adagrad steps.

Adagrad's sums, one number a row, do not lie in the order of rows: those of popular items, whose numbers are neighbours,
would share cache lines, for which threads wait although no two touch one number.

    rows 0, 1, 2, ... of 1,000   ->   line 0, line 1, ... line 63, and from row 64 on the second number of line 0, ...

Helpers that compute in float are forced inline. Else a process that compiled the kernel itself calls the helpers' own
code, one that found it in the cache calls the copies in there, and fast math rounds differently in the two.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

EPSILON = np.float32(1e-8)
"""Of Adagrad."""
FAST = {"reassoc", "contract", "arcp", "nsz"}
"""Fast math but `nnan`: a loss that is no number has to come out as one."""
LINEAR = np.float32(9)
"""From this score on, a loss is taken as linear: log(1 + e^x) = x + e^-x."""
FLOOR = np.float32(1 / (1 + np.exp(9.0)))
"""The sigmoid of -`LINEAR`."""
_CLAMP = np.float32(13)
_LINE_BITS = 4
"""Of the number of float32 in a cache line of 64 bytes."""


def new_sums(num_rows: int) -> NDArray[np.float32]:
    """Room for one sum a row, zero, a power of two of them; `places_of` says which is whose."""
    lines = -(-num_rows >> _LINE_BITS)
    return np.zeros(1 << ((lines - 1).bit_length() + _LINE_BITS), np.float32)


def places_of(sums: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the sums of rows lie."""
    shift = find_shift(len(sums))
    return np.asarray(((rows & ((1 << shift) - 1)) << _LINE_BITS) | (rows >> shift))


@njit(cache=True, nogil=True, forceinline=True)
def find_shift(size):  # type: ignore[no-untyped-def]
    """The power of two of the number of lines."""
    shift = 0
    while (1 << (shift + _LINE_BITS)) < size:
        shift += 1
    return shift


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", forceinline=True)
def sigmoid(x):  # type: ignore[no-untyped-def]
    """1 / (1 + exp(-x)) in float32 to about 1e-6, without a call, so that loops over it become vector code.

    tanh as a quotient of polynomials in x^2 (the coefficients are those of Eigen's `ptanh`), x clamped to +-13.
    """
    h = x if x < _CLAMP else _CLAMP
    h = np.float32(0.5) * (h if h > -_CLAMP else -_CLAMP)
    q = h * h
    p = np.float32(-2.76076847742355e-16)
    p = p * q + np.float32(2.00018790482477e-13)
    p = p * q + np.float32(-8.60467152213735e-11)
    p = p * q + np.float32(5.12229709037114e-08)
    p = p * q + np.float32(1.48572235717979e-05)
    p = p * q + np.float32(6.37261928875436e-04)
    p = p * q + np.float32(4.89352455891786e-03)
    r = np.float32(1.19825839466702e-06)
    r = r * q + np.float32(1.18534705686654e-04)
    r = r * q + np.float32(2.26843463243900e-03)
    r = r * q + np.float32(4.89352518554385e-03)
    return np.float32(0.5) + np.float32(0.5) * h * p / r


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", forceinline=True)
def add_cost(loss, product, product_weight, weight, score, chance):  # type: ignore[no-untyped-def]
    """(loss, product, product_weight) after a pair that costs weight x -log(chance), chance = sigmoid(score).

    Logs are dear, so chances of equal weight are multiplied up first: the loss is whole with `close_costs`. Up to a
    score of -9 the product has it, what lies beyond counts as it is.
    """
    if weight != product_weight or product < 1e-200:
        loss -= np.float64(product_weight) * np.log(product)
        product = 1.0
    product *= np.float64(chance if chance > FLOOR else FLOOR)
    loss += np.float64(np.float32(0) if -score <= LINEAR else weight * (-score - LINEAR))
    return loss, product, weight


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", forceinline=True)
def close_costs(loss, product, product_weight):  # type: ignore[no-untyped-def]
    """The whole loss of the pairs added by `add_cost`, which starts from (0.0, 1.0, float32 0)."""
    return loss - np.float64(product_weight) * np.log(product)


@njit(cache=True, nogil=True, forceinline=True)
def softplus(x):  # type: ignore[no-untyped-def]
    """log(1 + e^x) in float64."""
    return np.float64(max(x, 0)) + np.log1p(np.exp(-abs(np.float64(x))))


@njit(cache=True, nogil=True)
def gather_rows(vectors, rows, out):  # type: ignore[no-untyped-def]
    """Copies ``rows`` of a table."""
    # An explicit loop: numba's row assignment costs as much again as the copy.
    dim = vectors.shape[1]
    for r in range(len(rows)):
        row = rows[r]
        for d in range(dim):
            out[r, d] = vectors[row, d]


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", forceinline=True)
def step_rows(vectors, squares, rows, ascent_RD, learning_rate):  # type: ignore[no-untyped-def]
    """One row-wise Adagrad step for each of ``rows``, in turn: s += mean(g^2), w += rate g / (sqrt(s) + epsilon).

    ``squares`` are of `new_sums`.
    """
    dim, shift = vectors.shape[1], find_shift(len(squares))
    for r in range(len(rows)):
        row = np.int64(rows[r])
        place = ((row & ((1 << shift) - 1)) << _LINE_BITS) | (row >> shift)
        total = np.float32(0)
        for d in range(dim):
            total += ascent_RD[r, d] * ascent_RD[r, d]
        squares[place] += total / np.float32(dim)
        rate = learning_rate / (np.sqrt(squares[place]) + EPSILON)
        for d in range(dim):
            vectors[row, d] += rate * ascent_RD[r, d]
