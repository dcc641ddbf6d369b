"""What a stage's looks cost by its budget (held-out figures, sample pictures), against what torch's own counter sees of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.training.painted import painted_views
from training.methods import METHODS
from training.methods.base import TrainObject

METHOD = METHODS["mvdiffusionpp"]
CONDITIONS = 3


def executed(run) -> int:
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return sum(counter.get_flop_counts()["Global"].values())


@pytest.mark.parametrize("stage", ["mvae", "unet1", "unet3"])
def test_looking_costs_what_the_budget_says(stage, tmp_path):
    config = replace(METHOD.smoke(), validation_timesteps=3)
    vae = METHOD.trainable("mvae", config, {})
    vae.save(vae.build(), tmp_path)
    trainable = METHOD.trainable(stage, config, {"mvae": tmp_path})
    views = painted_views("one", config.resolution, CONDITIONS)
    obj = TrainObject(views, None if stage == "mvae" else trainable.synthetic(views, np.random.default_rng(0)))
    budget, module = METHOD.budget(stage, config, CONDITIONS), trainable.build().eval()
    assert executed(lambda: trainable.validate(module, [obj], 0)) == pytest.approx(budget.validation_flops, rel=0.02)
    assert executed(lambda: trainable.preview(module, [obj], 0)) == pytest.approx(budget.preview_flops, rel=0.02)
