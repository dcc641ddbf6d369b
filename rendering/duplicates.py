"""Objects that look the same, found in the whole set without comparing every pair.

The exact comparison (`fingerprint.likeness`) tries every relative turn, far too slow for every pair of a large set.
Turning an object moves its pictures around the ring, which leaves the magnitudes of their Fourier transform along the
ring as they are. The distance of those magnitudes therefore bounds the difference from below, whatever the turn, and
so does that of each hash bit's mean. Pairs within both bounds are held together at every turn, without their masks, by one
matrix product each, and only what is left is compared, so exactly the same pairs are found.

Distances along the directions in which the magnitudes differ most are no larger than the whole distance. Objects that are near each
other there form leaves, two leaves whose boxes are farther apart than the bound need no look, and of the others all pairs are
measured in one matrix product, whose size still grows with the square of the set (`docs/scaling.md` has what that costs).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rendering.fingerprint import Fingerprint, Likeness, likeness

# Fewer views than this are no ring, and random ones of two objects show no common side.
SHORTEST_RING = 4
FREQUENCIES = 5
LEAF, AT_ONCE, PAIRS_AT_ONCE, RINGS_AT_ONCE = 512, 2_048, 16_384, 1_024
DIRECTIONS = 16
ROUNDING = 1e-5


def alike_pairs(prints: Sequence[Fingerprint | None], max_bits: float, max_colour: float) -> Iterator[tuple[int, int, Likeness]]:
    """Indices (i < j) of all pairs within both limits. Rings of different length are never alike; None is skipped."""
    lengths = np.array([0 if one is None else len(one.hashes) for one in prints])
    for length in np.unique(lengths[lengths >= SHORTEST_RING]):
        rows = np.flatnonzero(lengths == length)
        for one, other in _candidates([prints[row] for row in rows], max_bits, max_colour):
            alike = likeness(prints[rows[one]], prints[rows[other]])  # type: ignore[arg-type]
            if alike.bits <= max_bits and alike.colour <= max_colour:
                yield int(rows[one]), int(rows[other]), alike


def _candidates(prints: Sequence[Any], max_bits: float, max_colour: float) -> Iterator[tuple[int, int]]:
    """The pairs (i < j) that the bounds leave, each once."""
    spectra = np.stack([spectrum(one) for one in prints])
    covers = np.array([one.thumbnails[..., 3].mean() for one in prints], np.float32) / np.float32(255)
    bits = np.stack([one.hashes.mean(0) for one in prints]).astype(np.float32)
    for ones, others in _near(_projected(spectra), _shares(covers, max_colour)):
        for part in range(0, len(ones), PAIRS_AT_ONCE):
            one, other = ones[part : part + PAIRS_AT_ONCE], others[part : part + PAIRS_AT_ONCE]
            allowed = _allowed(covers[one] + covers[other], max_colour)
            close = ((spectra[one] - spectra[other]) ** 2).sum(1) <= allowed
            close &= np.abs(bits[one] - bits[other]).sum(1) <= max_bits + ROUNDING
            one, other, allowed = one[close], other[close], allowed[close]
            for few in range(0, len(one), RINGS_AT_ONCE):
                rows = slice(few, few + RINGS_AT_ONCE)
                least = _least_difference([prints[row] for row in one[rows]], [prints[row] for row in other[rows]])
                close = least <= allowed[rows]
                yield from zip(np.minimum(one[rows], other[rows])[close], np.maximum(one[rows], other[rows])[close], strict=True)


def _allowed(both: Any, max_colour: float) -> Any:
    """Mean squared difference of the thumbnails that no pair within `max_colour` exceeds; `both` is the sum of their mean alphas.

    `likeness` divides by the share u of the pixels that either of the two covers, so the difference is at most `max_colour`^2 u. And u is
    half of `both` and half the masks' mean absolute difference, which is at most twice the root of the mean squared difference (that
    is of four channels): u <= both / 2 + max_colour sqrt(u). Solved for u.
    """
    root = (max_colour + np.sqrt(max_colour**2 + 2 * both)) / 2
    return max_colour**2 * root**2 * (1 + ROUNDING) + ROUNDING


def _shares(covers: np.ndarray, max_colour: float) -> np.ndarray:
    """What each object adds to a pair's `_allowed`, or more: the tangent of that concave function at the mean."""
    middle = 2 * float(covers.mean())
    root = max(np.sqrt(max_colour**2 + 2 * middle), ROUNDING)
    slope = max_colour**2 * (1 + ROUNDING) * (max_colour + root) / (2 * root)
    return (_allowed(middle, max_colour) / 2 + slope * (covers - middle / 2) + ROUNDING).astype(np.float32)


def _least_difference(ones: Sequence[Fingerprint], others: Sequence[Fingerprint]) -> np.ndarray:
    """float32 `[P]`: the mean squared difference of each pair's thumbnails at the turn where it is least."""
    mine, theirs = (np.stack([one.thumbnails.reshape(len(one.hashes), -1) for one in each]) / np.float32(255) for each in (ones, others))
    count, values = mine.shape[1:]
    products = mine @ theirs.transpose(0, 2, 1)
    turns = (np.arange(count)[None] - np.arange(count)[:, None]) % count  # as in `likeness`: row t is the other ring rolled by t
    common = products[:, np.arange(count), turns].sum(2).max(1)
    whole = (mine**2).sum((1, 2)) + (theirs**2).sum((1, 2))
    return np.maximum(whole - 2 * common, 0) / (count * values)


def _near(points: np.ndarray, shares: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of all pairs whose squared distance is at most the sum of their shares, and of some a rounding error farther apart."""
    rows = _leaves(points)
    starts = np.arange(0, len(rows), LEAF)
    points, shares = points[rows], shares[rows]
    lows, highs = (f.reduceat(points, starts) for f in (np.minimum, np.maximum))
    most = np.maximum.reduceat(shares, starts)
    squares = (points**2).sum(1)
    rounding = ROUNDING * float(squares.max())  # of the product below, in single precision
    # 2 p q - n_p - n_q >= 0 where the squared distance is at most the shares; the subtractions are done by the product, too.
    needed, ones = squares - shares - rounding / 2, np.ones(len(points), np.float32)
    left, right = np.column_stack([2 * points, -needed, -ones]), np.column_stack([points, ones, needed])
    for number, start in enumerate(starts):
        gaps = np.maximum(0, np.maximum(lows[number:] - highs[number], lows[number] - highs[number:]))
        near = starts[number:][(gaps**2).sum(1) <= most[number:] + most[number] + rounding]
        places = (near[:, None] + np.arange(LEAF)).ravel()
        places = places[places < len(rows)]
        own = left[start : start + LEAF]
        for part in range(0, len(places), AT_ONCE):
            others = places[part : part + AT_ONCE]
            found = np.flatnonzero(own @ right[others].T >= 0)
            one, other = start + found // len(others), others[found % len(others)]
            once = one < other
            yield rows[one[once]], rows[other[once]]


def _leaves(points: np.ndarray) -> np.ndarray:
    """An order of the points in which each `LEAF` successive ones lie together: halved again and again where they spread most."""
    waiting, leaves = [np.arange(len(points))], []
    while waiting:
        rows = waiting.pop()
        if len(rows) <= LEAF:
            leaves.append(rows)
            continue
        part = points[rows]
        widest = np.argmax(part.max(0) - part.min(0))
        half = -(-len(rows) // (2 * LEAF)) * LEAF  # all leaves but the last are full
        order = np.argpartition(part[:, widest], half - 1)
        waiting += [rows[order[half:]], rows[order[:half]]]
    return np.concatenate(leaves)


def _projected(spectra: np.ndarray) -> np.ndarray:
    """float32 vectors along the `DIRECTIONS` orthonormal directions in which they differ most: distances never grow by it."""
    centred = (spectra - spectra.mean(0)).astype(np.float64)
    _, directions = np.linalg.eigh(centred.T @ centred)
    return (centred @ directions[:, -DIRECTIONS:]).astype(np.float32)


def spectrum(one: Fingerprint) -> np.ndarray:
    """float32 vector whose distance to another's is at most the RMS difference of the thumbnails at their best turn.

    By Parseval's theorem the mean squared difference over the ring is that of the transforms, which is least where the
    phases agree; leaving out frequencies and averaging blocks of 2x2 pixels only makes it smaller.
    """
    length = len(one.thumbnails)
    magnitude = np.abs(np.fft.rfft(one.thumbnails / 255.0, axis=0))[:FREQUENCIES]
    weight = np.full(len(magnitude), 2.0)
    weight[0] = 1.0
    if length % 2 == 0 and len(magnitude) == length // 2 + 1:
        weight[-1] = 1.0
    blocks = magnitude.reshape(len(magnitude), 4, 2, 4, 2, 4).mean((2, 4))
    return (blocks * np.sqrt(weight[:, None, None, None] / (64.0 * length**2))).astype(np.float32).ravel()
