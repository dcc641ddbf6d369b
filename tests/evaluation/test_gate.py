"""The gate against a real registry: who becomes champion, who does not, and why."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from evaluation import gate
from evaluation.gate import KEPT, PROMOTED, REFUSED, Figure, GateConfig, decide
from infra import tracking
from infra.errors import UserError
from infra.job import Job
from infra.storage import Location

CONFIG = GateConfig()


def figure(uri: str, value: float | None, basis: str = "default/set/1-view") -> Figure:
    return Figure(uri, basis, value)


@pytest.mark.parametrize(
    ("challenger", "champion", "minimum", "expected"),
    [
        (figure("b", 20.0), None, None, PROMOTED),
        (figure("b", 20.0), None, 20.0, PROMOTED),
        (figure("b", 19.9), None, 20.0, REFUSED),
        (figure("b", math.nan), None, None, REFUSED),
        (figure("b", math.inf), figure("a", 10.0), None, REFUSED),
        (figure("b", None), figure("a", 10.0), None, REFUSED),
        (figure("b", 20.1), figure("a", 20.0), None, PROMOTED),
        (figure("b", 20.0), figure("a", 20.0), None, KEPT),
        (figure("b", 19.0), figure("a", 20.0), 5.0, KEPT),
        (figure("b", 50.0), figure("a", None), None, KEPT),
        (figure("b", 50.0), figure("a", 20.0, "default/other/1-view"), None, KEPT),
        (figure("a", 50.0), figure("a", 20.0), None, KEPT),
        # A mean over fewer objects is not better; one over more may be.
        (replace(figure("b", 50.0), missing=2), replace(figure("a", 20.0), missing=1), None, KEPT),
        (replace(figure("b", 50.0), missing=1), replace(figure("a", 20.0), missing=2), None, PROMOTED),
    ],
)
def test_rule(challenger: Figure, champion: Figure | None, minimum: float | None, expected: str) -> None:
    decision, reason = decide(GateConfig(minimum=minimum), challenger, champion)
    assert decision == expected
    assert challenger.uri in reason or (champion and champion.uri in reason)


def test_lower_is_better_for_distances() -> None:
    chamfer = GateConfig(metric="chamfer", minimum=0.05)
    assert decide(chamfer, figure("b", 0.01), figure("a", 0.02))[0] == PROMOTED
    assert decide(chamfer, figure("b", 0.03), figure("a", 0.02))[0] == KEPT
    assert decide(chamfer, figure("b", 0.06), None)[0] == REFUSED
    assert decide(chamfer, figure("b", 0.04), None)[0] == PROMOTED


@dataclass
class Registry:
    """A real MLflow store with versions 1..3 of one model, and folders for the gate's inputs and outputs."""

    root: Path
    job: Job

    @property
    def uri(self) -> str:
        assert self.job.run.tracking_uri is not None
        return self.job.run.tracking_uri

    def judge(
        self,
        version: int,
        mean: float | None,
        *,
        build: str,
        evaluation_set: str = "e" * 64,
        conditions: int = 1,
        missing: int = 0,
        config=CONFIG,
    ) -> dict:
        place = Location(str(self.root / f"{version}-{build}"))
        (place / "scores" / "summary.json").write_json(
            {
                "protocol": {"name": "default"},
                "evaluation_set": evaluation_set,
                "metrics": {"psnr_foreground": {"mean": mean, "missing": missing}, "f_score@0.01": {"mean": 0.5}},
            }
        )
        made_by = {"name": "mv", "version": str(version), "uri": f"models:/mv/{version}", "settings": {"conditions": conditions}}
        (place / "generated" / "model.json").write_json(made_by)
        job = Job(build_id=build, run=self.job.run)
        summary = gate.run(config, scores=place / "scores", model=None, generated=place / "generated", out=place / "out", job=job)
        record = (place / "out" / "decision.json").read_json()
        assert summary.facts["decision"] == record["decision"]
        return record

    def champion(self) -> str | None:
        found = tracking.get_alias(self.uri, "mv", "champion")
        return found.uri if found else None


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    uri = tracking.default_uri(tmp_path)
    run = tracking.open_run(uri, "test", "gate")
    (tmp_path / "generator").mkdir()
    (tmp_path / "generator" / "settings.json").write_text("{}")
    for number in (1, 2, 3):
        tracking.register(
            uri,
            name="mv",
            folder=tmp_path / "generator",
            loader_module="training.register",
            input_columns={"image": "binary"},
            output_columns={"image": "binary"},
            tags={},
            description="",
            run=run,
            build_id=f"register-{number}",
        )
    return Registry(tmp_path, Job(run=run))


def test_the_alias_follows_the_better_model_and_reruns_change_nothing(registry: Registry) -> None:
    assert registry.judge(1, 12.0, build="a", config=GateConfig(minimum=15.0))["decision"] == REFUSED
    assert registry.champion() is None

    first = registry.judge(1, 12.0, build="b")
    assert (first["decision"], first["champion_before"], first["champion_after"]) == (PROMOTED, None, "models:/mv/1")
    # An interrupted build that goes on, and a rerun under a new build id.
    assert registry.judge(1, 12.0, build="b") == first
    again = registry.judge(1, 12.0, build="c")
    assert (again["decision"], again["champion_after"]) == (KEPT, "models:/mv/1") and "already" in again["reason"]

    assert "more objects" in registry.judge(2, 90.0, build="lossy", missing=1)["reason"]
    worse = registry.judge(2, 11.0, build="d")
    assert (worse["decision"], worse["champion_before_value"]) == (KEPT, 12.0) and registry.champion() == "models:/mv/1"
    better = registry.judge(3, 13.0, build="e")
    assert (better["decision"], better["champion_before"]) == (PROMOTED, "models:/mv/1") and registry.champion() == "models:/mv/3"
    # The once promoted version is judged again: it lost the title meanwhile and does not get it back.
    assert registry.judge(1, 12.0, build="b2")["decision"] == KEPT and registry.champion() == "models:/mv/3"

    # Killed between the intention and the alias: the same build ends as it would have, and says the same.
    tracking.set_alias(registry.uri, tracking.ModelVersion("mv", "1", "models:/mv/1"), "champion")
    assert registry.judge(3, 13.0, build="e") == better and registry.champion() == "models:/mv/3"

    tags = tracking.version_tags(registry.uri, tracking.ModelVersion("mv", "3", "models:/mv/3"))
    assert tags["psnr_foreground"] == "13" and tags["f_score_at_0.01"] == "0.5"


def test_figures_of_another_evaluation_set_or_task_do_not_compare(registry: Registry) -> None:
    registry.judge(1, 12.0, build="a")
    for case in ({"evaluation_set": "f" * 64}, {"conditions": 4}):
        record = registry.judge(2, 30.0, build=f"b{len(case)}", **case)
        assert record["decision"] == KEPT and "cannot be compared" in record["reason"]
    assert registry.champion() == "models:/mv/1"
    # Once the champion has been scored there too, they compare.
    registry.judge(1, 14.0, build="c", conditions=4)
    assert registry.judge(2, 30.0, build="d", conditions=4)["decision"] == PROMOTED


def test_what_the_user_must_mend(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lpips"):
        registry.judge(1, 12.0, build="a", config=GateConfig(metric="lpips"))
    place = Location(str(tmp_path))
    with pytest.raises(UserError, match="registry"):
        gate.run(CONFIG, scores=place, model=None, generated=place, out=place, job=Job())
