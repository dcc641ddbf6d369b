"""What every method must do, whatever it is: a loop over METHODS, nobody skipped."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infra.errors import UserError
from infra.seeds import rng_for
from rendering.view_set import CONDITION, TARGET
from tests.training.painted import painted_views
from training.lookup import load_generator
from training.methods import METHODS
from training.methods.base import Method, Trainable, TrainObject

STEPS = 20


@dataclass
class Trained:
    """A method after a few steps of every stage on three painted objects."""

    method: Method
    config: Any
    objects: dict[str, list[TrainObject]]
    checkpoints: dict[str, Path]
    generator_folder: Path

    def trainable(self, stage: str) -> Trainable:
        return self.method.trainable(stage, self.config, self.checkpoints)

    def batch(self, stage: str, key: int = 0) -> dict[str, Any]:
        trainable = self.trainable(stage)
        return trainable.collate([trainable.example(obj, rng_for(key, obj.views.uid)) for obj in self.objects[stage]])


def _fit(trainable: Trainable, module: torch.nn.Module, batch: dict[str, Any], steps: int, lr: float = 3e-3) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr)
    losses = []
    for step in range(steps):
        loss, _ = trainable.loss(module, batch, torch.Generator().manual_seed(0), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.fixture(scope="module", params=sorted(METHODS))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    method = METHODS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    views = [painted_views(f"object{i}") for i in range(3)]
    result = Trained(method, method.smoke(), {}, {}, folder / "generator")
    arrays: dict[str, list[Any]] = {}
    for stage in method.stages:
        encoded = arrays[stage.encodes_with] if stage.encodes_with else [None] * len(views)
        result.objects[stage.name] = [TrainObject(v, a) for v, a in zip(views, encoded, strict=True)]
        torch.manual_seed(0)
        trainable = result.trainable(stage.name)
        module = trainable.build().train()
        if stage.starts_from:
            trainable.load(module, result.checkpoints[stage.starts_from])
        _fit(trainable, module, result.batch(stage.name), 5)
        result.checkpoints[stage.name] = folder / stage.name
        result.checkpoints[stage.name].mkdir()
        trainable.save(module, result.checkpoints[stage.name])
        if any(other.encodes_with == stage.name for other in method.stages):
            encode = method.encoder(stage.name, result.config, result.checkpoints[stage.name], "cpu")
            arrays[stage.name] = [encode(v) for v in views]
    method.export(result.config, result.checkpoints, result.generator_folder)
    return result


def _stages(trained: Trained) -> list[str]:
    return [stage.name for stage in trained.method.stages]


def test_stages_are_in_order(trained: Trained) -> None:
    seen: set[str] = set()
    for stage in trained.method.stages:
        assert stage.name not in seen
        assert {stage.starts_from, stage.encodes_with} - {None} <= seen
        seen.add(stage.name)
    with pytest.raises(UserError):
        trained.trainable("no-such-stage")


def test_gradients_reach_every_trained_weight(trained: Trained) -> None:
    """Within three steps: a zero-initialised gate may hold back what lies behind it during the first."""
    for stage in _stages(trained):
        torch.manual_seed(0)
        trainable = trained.trainable(stage)
        module = trainable.build().train()
        optimizer = torch.optim.AdamW(module.parameters(), 1e-3)
        reached: set[str] = set()
        for step in range(3):
            loss, terms = trainable.loss(module, trained.batch(stage, step), torch.Generator().manual_seed(step), step)
            assert torch.isfinite(loss) and all(np.isfinite(float(term)) for term in terms.values())
            optimizer.zero_grad()
            loss.backward()
            reached |= {name for name, p in module.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
            optimizer.step()
        assert {name for name, p in module.named_parameters() if p.requires_grad} == reached


def test_one_batch_is_overfitted(trained: Trained) -> None:
    for stage in _stages(trained):
        torch.manual_seed(0)
        trainable = trained.trainable(stage)
        losses = _fit(trainable, trainable.build().train(), trained.batch(stage), STEPS)
        assert losses[-1] < 0.7 * losses[0], f"{stage}: {losses[0]:.3f} -> {losses[-1]:.3f}"


def test_same_seed_same_loss(trained: Trained) -> None:
    for stage in _stages(trained):
        runs = []
        for _ in range(2):
            torch.manual_seed(0)
            trainable = trained.trainable(stage)
            runs.append(_fit(trainable, trainable.build().train(), trained.batch(stage), 2))
        assert runs[0] == runs[1]


def test_save_and_load_give_the_same_figures(trained: Trained) -> None:
    for stage in _stages(trained):
        trainable = trained.trainable(stage)
        figures = []
        for seed in (1, 2):  # different fresh weights, overwritten by the same checkpoint
            torch.manual_seed(seed)
            module = trainable.build()
            before = trainable.validate(module, trained.objects[stage], seed=0)
            trainable.load(module, trained.checkpoints[stage])
            figures.append(trainable.validate(module, trained.objects[stage], seed=0))
            assert before["loss"] != figures[-1]["loss"]
        assert figures[0] == figures[1] and np.isfinite(list(figures[0].values())).all()


def test_a_counted_cost_is_of_the_batch(trained: Trained) -> None:
    """Optional: `cost`. Twice the objects cost twice as much, and asking changes nothing."""
    for stage in _stages(trained):
        trainable = trained.trainable(stage)
        if not hasattr(trainable, "cost"):
            continue
        examples = [trainable.example(obj, rng_for(0, obj.views.uid)) for obj in trained.objects[stage][:1]]
        once, twice = (trainable.cost(trainable.collate(examples * times)) for times in (1, 2))
        assert set(once) == {"flops", "tokens"} and all(isinstance(value, float) for value in once.values())
        assert twice == {name: pytest.approx(2 * value) for name, value in once.items()} and min(once.values()) > 0


def test_a_preview_is_repeatable_and_leaves_the_weights_alone(trained: Trained) -> None:
    """Optional: `preview`. Figures are finite, pictures are uint8 RGB, the module is as it was."""
    for stage in _stages(trained):
        trainable = trained.trainable(stage)
        if not hasattr(trainable, "preview"):
            continue
        torch.manual_seed(0)
        module = trainable.build().eval()
        before = {name: value.clone() for name, value in module.state_dict().items()}
        with torch.no_grad():
            first, again = (trainable.preview(module, trained.objects[stage][:1], seed=1) for _ in range(2))
        assert not module.training and all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
        assert first.figures == again.figures and np.isfinite(list(first.figures.values())).all()
        assert first.pictures and set(first.pictures) == set(again.pictures)
        for name, picture in first.pictures.items():
            assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
            assert np.array_equal(picture, again.pictures[name])


def test_made_up_arrays_have_the_encoders_form(trained: Trained) -> None:
    """Optional: `synthetic`. Names, shapes and dtypes are those of `encode`, and a batch of them can be trained on."""
    for stage in trained.method.stages:
        trainable = trained.trainable(stage.name)
        if stage.encodes_with is None or not hasattr(trainable, "synthetic"):
            continue
        real = trained.objects[stage.name][0]
        made = trainable.synthetic(real.views, np.random.default_rng(0))
        assert real.arrays is not None
        assert {name: (a.shape, a.dtype) for name, a in made.items()} == {name: (a.shape, a.dtype) for name, a in real.arrays.items()}
        trainable.collate([trainable.example(TrainObject(real.views, made), np.random.default_rng(0))])


def test_what_reads_no_pictures_works_without_them(trained: Trained) -> None:
    """`Stage.pictures` False: `example` gives the same for views whose pictures were left out."""
    for stage in trained.method.stages:
        if stage.pictures:
            continue
        trainable, obj = trained.trainable(stage.name), trained.objects[stage.name][0]
        bare = TrainObject(replace(obj.views, rgba=obj.views.rgba[:, :0, :0]), obj.arrays)
        batches = [trainable.collate([trainable.example(each, np.random.default_rng(0))]) for each in (obj, bare)]
        for name, value in batches[0].items():
            assert torch.equal(value, batches[1][name]) if isinstance(value, torch.Tensor) else value == batches[1][name], name


def test_generated_views_follow_the_seed_and_leave_the_conditions_alone(trained: Trained) -> None:
    conditions = trained.objects[_stages(trained)[0]][0].views.with_role(CONDITION).select([0, 1])
    before = conditions.rgba.copy()
    generator = load_generator(trained.generator_folder, "cpu")
    first = generator.generate(conditions, seed=3, steps=2)
    again = load_generator(trained.generator_folder, "cpu").generate(conditions, seed=3, steps=2)
    other = generator.generate(conditions, seed=4, steps=2)
    assert np.array_equal(conditions.rgba, before)
    assert np.array_equal(first.rgba, again.rgba) and not np.array_equal(first.rgba, other.rgba)
    assert first.uid == conditions.uid and set(first.roles) == {TARGET} and first.rgba.dtype == np.uint8
    assert len(first.camera) == len(first) == len(first.azimuth_deg)


def test_what_is_no_generator_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mvforge.json"):
        load_generator(tmp_path, "cpu")
    (tmp_path / "mvforge.json").write_text('{"method": "none-such"}')
    with pytest.raises(UserError, match="none-such"):
        load_generator(tmp_path, "cpu")
