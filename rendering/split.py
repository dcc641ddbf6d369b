"""Train, validation and test membership by hash of a duplicate group, one group at a time."""

import hashlib
from collections.abc import Iterable

from infra.errors import UserError

TRAIN, VAL, TEST = "train", "val", "test"
_SEEDS_TRIED = 1000


def split_of(group: str, val_fraction: float, test_fraction: float, split_seed: int = 0) -> str:
    """The split of one group. It depends on nothing else, so a catalog can grow without moving an object."""
    digest = hashlib.sha256(f"{split_seed}\x1f{group}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < test_fraction:
        return TEST
    return VAL if position < test_fraction + val_fraction else TRAIN


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Raises UserError unless both are >= 0 and leave something to train on."""
    if val_fraction < 0 or test_fraction < 0 or val_fraction + test_fraction >= 1:
        raise UserError(
            f"val_fraction={val_fraction} and test_fraction={test_fraction} leave no training set",
            "choose fractions >= 0 whose sum is below 1, for example 0.2 and 0.2",
        )


def empty_splits(groups: Iterable[str], val_fraction: float, test_fraction: float, split_seed: int) -> list[str]:
    """Splits that should hold something but hold nothing; a fraction of exactly 0 asks for an empty split."""
    found = {split_of(group, val_fraction, test_fraction, split_seed) for group in groups}
    wanted = [TRAIN] + [VAL] * (val_fraction > 0) + [TEST] * (test_fraction > 0)
    return [split for split in wanted if split not in found]


def check_splits(groups: Iterable[str], val_fraction: float, test_fraction: float, split_seed: int) -> None:
    """Raises UserError when a wanted split is empty, with a mend that works for these very groups."""
    distinct = sorted(set(groups))
    empty = empty_splits(distinct, val_fraction, test_fraction, split_seed)
    if not empty:
        return
    seed = next((s for s in range(_SEEDS_TRIED) if not empty_splits(distinct, val_fraction, test_fraction, s)), None)
    ways = ["add objects", "set val_fraction and test_fraction (0 for a split you do not need)"]
    if seed is not None:
        ways.insert(0, f"set catalog.split_seed={seed}")
    raise UserError(
        f"the {' and '.join(empty)} split is empty: {len(distinct)} distinct objects, val_fraction={val_fraction}, "
        f"test_fraction={test_fraction}, split_seed={split_seed}",
        ", or ".join(ways),
    )
