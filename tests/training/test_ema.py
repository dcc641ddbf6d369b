import numpy as np
import torch

from training.ema import Ema


def test_average_follows_the_recursion_with_warm_up():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(60, 3))
    weight = torch.tensor(values[0], dtype=torch.float64)
    ema = Ema([weight], decay=0.8)
    expected = values[0].copy()
    for n, value in enumerate(values[1:]):
        weight.copy_(torch.tensor(value))
        ema.update([weight])
        decay = min(0.8, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    np.testing.assert_allclose(ema.averages[0].numpy(), expected, rtol=1e-5)


def test_restored_average_continues_exactly():
    weights = [torch.randn(4, generator=torch.Generator().manual_seed(n)) for n in range(6)]
    whole, part = Ema([weights[0]], 0.9), Ema([weights[0]], 0.9)
    for w in weights[1:3]:
        whole.update([w])
        part.update([w])
    again = Ema([torch.zeros(4)], 0.9)
    again.restore(part.state())
    for w in weights[3:]:
        whole.update([w])
        again.update([w])
    assert torch.equal(whole.averages[0], again.averages[0])
