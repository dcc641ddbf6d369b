from collections import Counter

import pytest

from training.sampler import ObjectSampler

UIDS = [f"u{n}" for n in range(7)]


def test_every_epoch_is_a_permutation_and_epochs_differ():
    sampler = ObjectSampler(UIDS, seed=3)
    epochs = [[sampler.uid(7 * e + n) for n in range(7)] for e in range(4)]
    assert all(sorted(epoch) == UIDS for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_order_depends_on_the_seed_and_not_on_the_order_given():
    def order(uids, seed):
        sampler = ObjectSampler(uids, seed)
        return [sampler.uid(n) for n in range(21)]

    assert order(UIDS, 1) == order(UIDS[::-1], 1)
    assert order(UIDS, 1) != order(UIDS, 2)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_workers_share_a_global_batch_without_gap_or_overlap(world):
    sampler, batch, micro = ObjectSampler(UIDS, 0), 12, 2
    per_worker = batch // micro // world
    seen = [
        sample for rank in range(world) for k in range(per_worker) for sample in sampler.micro_batch(5, batch, micro, rank * per_worker + k)
    ]
    assert [index for index, _ in seen] == list(range(60, 72))
    assert Counter(uid for _, uid in seen) == Counter(sampler.uid(n) for n in range(60, 72))


def test_nothing_to_sample_is_refused():
    with pytest.raises(ValueError):
        ObjectSampler([], 0)
