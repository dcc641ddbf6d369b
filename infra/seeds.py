"""Random generators keyed by what they are for, so results never depend on worker count or order."""

import hashlib

import numpy as np


def seed_for(*key: str | int) -> int:
    """A 63-bit seed from a key such as `(seed, uid, "cameras")`; equal keys give equal seeds."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def rng_for(*key: str | int) -> np.random.Generator:
    """A NumPy generator seeded by `seed_for(*key)`."""
    return np.random.default_rng(seed_for(*key))
