"""Objects that look the same, found in the whole set without comparing every pair.

The exact comparison (`fingerprint.likeness`) tries every relative turn, far too slow for every pair of a large set.
Turning an object moves its pictures around the ring, which leaves the magnitudes of their Fourier transform along the
ring as they are. The distance of those magnitudes therefore bounds the difference from below, whatever the turn, and
so does that of each hash bit's mean. Only pairs within both bounds are compared, so exactly the same pairs are found.

Nor are the bounds computed for every pair, whose number grows with the square of the set. Distances along the directions in which the
magnitudes differ most are no larger than the whole distance. Objects that are near each other there form leaves, two leaves whose
boxes are farther apart than the bound need no look, and of the others all pairs are measured in one matrix product.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rendering.fingerprint import Fingerprint, Likeness, likeness

# Fewer views than this are no ring, and random ones of two objects show no common side.
SHORTEST_RING = 4
FREQUENCIES = 5
LEAF, AT_ONCE, PAIRS_AT_ONCE = 512, 16_384, 16_384
DIRECTIONS = 64
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
    # No pair within the bound below is farther apart than this, squared.
    reach = (max_colour**2 * 2 * float(covers.max()) + ROUNDING) * (1 + ROUNDING)
    for ones, others in _near(_projected(spectra), reach):
        for part in range(0, len(ones), PAIRS_AT_ONCE):
            one, other = ones[part : part + PAIRS_AT_ONCE], others[part : part + PAIRS_AT_ONCE]
            distance = ((spectra[one] - spectra[other]) ** 2).sum(1)
            # likeness divides by the pixels that either of the two covers, which are at most those of both together.
            close = distance <= max_colour**2 * (covers[one] + covers[other]) + ROUNDING
            close &= np.abs(bits[one] - bits[other]).sum(1) <= max_bits + ROUNDING
            yield from zip(np.minimum(one, other)[close], np.maximum(one, other)[close], strict=True)


def _near(points: np.ndarray, reach: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of all pairs whose squared distance is at most `reach`, and of some that are a rounding error farther apart."""
    rows = _leaves(points)
    starts = np.arange(0, len(rows), LEAF)
    points = points[rows]
    lows, highs = (f.reduceat(points, starts) for f in (np.minimum, np.maximum))
    squares = (points**2).sum(1)
    reach += ROUNDING * float(squares.max())  # of the product below, in single precision
    for number, start in enumerate(starts):
        gaps = np.maximum(0, np.maximum(lows[number:] - highs[number], lows[number] - highs[number:]))
        near = starts[number:][(gaps**2).sum(1) <= reach]
        places = (near[:, None] + np.arange(LEAF)).ravel()
        places = places[places < len(rows)]
        own = slice(start, start + LEAF)
        for part in range(0, len(places), AT_ONCE):
            others = places[part : part + AT_ONCE]
            distances = squares[own, None] + squares[others] - 2 * points[own] @ points[others].T
            ones, found = np.nonzero(distances <= reach)
            once = start + ones < others[found]
            yield rows[start + ones[once]], rows[others[found[once]]]


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
