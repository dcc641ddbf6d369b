"""Which object is the n-th training sample: a function of seed and position alone, never of worker count."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from infra.seeds import rng_for


class ObjectSampler:
    """An endless stream of uids: every epoch is a fresh permutation of all objects.

    Sample `index` of the stream belongs to epoch `index // len(uids)`; a resumed run at another world size therefore
    continues with exactly the objects that an uninterrupted one would have seen.

    Raises:
        ValueError: no objects.
    """

    def __init__(self, uids: Sequence[str], seed: int) -> None:
        if not uids:
            raise ValueError("no objects to sample from")
        self.uids = sorted(uids)
        self.seed = seed
        self._order = lru_cache(maxsize=4)(self._permutation)

    def _permutation(self, epoch: int) -> np.ndarray:
        return rng_for(self.seed, "object order", epoch).permutation(len(self.uids))

    def uid(self, index: int) -> str:
        """The object of sample `index`."""
        epoch, position = divmod(index, len(self.uids))
        return self.uids[self._order(epoch)[position]]

    def micro_batch(self, step: int, global_batch: int, micro_batch: int, number: int) -> list[tuple[int, str]]:
        """`(sample index, uid)` of micro-batch `number` of the global batch of `step` (steps count from 0)."""
        first = step * global_batch + number * micro_batch
        return [(index, self.uid(index)) for index in range(first, first + micro_batch)]
