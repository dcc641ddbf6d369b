"""The whole pipeline as one function: recipe -> steps, in order.

    catalog -> fetch -> render -> curate -> train.<stage> ... -> register -> generate -> reconstruct -> score -> gate -> report

The middle comes from the method's ordered stages; nothing here names a method.
"""

from dataclasses import replace
from typing import Any

from evaluation import gate, generate, reconstruct, report, score
from evaluation.rescore import Rescoring
from infra.errors import UserError
from pipelines.dag import Inputs, Step
from pipelines.recipe import Recipe
from rendering import catalog, curate, fetch, render
from training import encode, register, train
from training.lookup import method_named
from training.methods.base import Stage


def build(recipe: Recipe) -> list[Step]:
    """The steps of a recipe."""

    def step(name: str, run: Any, config: Any, group: str, **inputs: Any) -> Step:
        return Step(
            name,
            run,
            config,
            group,
            inputs,
            resources=recipe.resources_for(name),
            version=VERSIONS.get(name.partition(".")[0], 1),
            max_failed_fraction=recipe.max_failed_fraction,
        )

    stages = method_named(recipe.method).stages
    listing = step("catalog", catalog.run, recipe.catalog, "data")
    state = catalog.source_state(recipe.catalog)
    data = [
        replace(listing, outside={"source files": state}) if state else listing,
        step("fetch", fetch.run, recipe.fetch, "data", catalog="catalog"),
        step("render", render.run, recipe.render, "data", meshes="fetch"),
        step("curate", curate.run, recipe.curate, "data", views="render"),
    ]
    checkpoints = {stage.name: f"train.{stage.name}" for stage in stages}
    evaluation = [
        step("generate", generate.run, recipe.generate, "eval", model="register", views="render", kept="curate"),
        step("reconstruct", reconstruct.run, recipe.reconstruct, "eval", views="generate"),
        step("score", score.run, recipe.score, "eval", reference="render", generated="generate", meshes="reconstruct", model="register"),
        step(
            "gate", gate.run, _gate(recipe), "eval", scores="score", model="register", generated="generate", views="render", kept="curate"
        ),
        step(
            "report",
            report.run,
            recipe.report,
            "eval",
            scores="score",
            generated="generate",
            reference="render",
            meshes="reconstruct",
            decision="gate",
            model="register",
            fetched="fetch",
            curated="curate",
            histories=checkpoints,
        ),
    ]
    registration = step(
        "register",
        register.run,
        replace(recipe.register, method=recipe.method, model=recipe.model, recipe=recipe.name),
        "train",
        checkpoints=checkpoints,
        meshes="fetch",
        views="render",
        kept="curate",
    )
    return [*data, *_training(recipe, stages, step), registration, *evaluation]


def _gate(recipe: Recipe) -> gate.GateTask:
    """The recipe's rule, with how a champion would be scored again: as the recipe scores its own model."""
    resources = {name: recipe.resources_for(name) for name in ("generate", "reconstruct", "score")}
    return gate.task_of(recipe.gate, Rescoring(recipe.generate, recipe.reconstruct, recipe.score, resources))


# Raised when a step's output changes meaning, so that finished builds of the older meaning are not reused.
VERSIONS: dict[str, int] = {"reconstruct": 2}


def _training(recipe: Recipe, stages: tuple[Stage, ...], step: Any) -> list[Step]:
    """One train step per stage, and an encode step before the first stage that reads what an earlier one encodes; none
    for stages that encode on the fly."""
    steps: list[Step] = []
    encoders = list(dict.fromkeys(stage.encodes_with for stage in stages if stage.encodes_with))
    names = {stage: "encode" if len(encoders) == 1 else f"encode.{stage}" for stage in encoders}
    for stage in stages:
        if stage.name not in recipe.train:
            raise UserError(f"recipe {recipe.name} has no training settings for stage '{stage.name}'", "add it to the recipe's `train`")
        own = recipe.train[stage.name]
        on_the_fly = stage.encodes_with is not None and (recipe.encode_on_the_fly or own.encode_on_the_fly)
        inputs: Inputs = {"views": "render", "kept": "curate"}
        if stage.encodes_with:
            encode_name = names[stage.encodes_with]
            if not on_the_fly and all(done.name != encode_name for done in steps):
                reads = next(other.encoding_reads for other in stages if other.name == stage.encodes_with)
                encoding = replace(recipe.encode, method=recipe.method, model=_only(recipe.model, reads), stage=stage.encodes_with)
                steps.append(step(encode_name, encode.run, encoding, "train", **inputs, checkpoint=f"train.{stage.encodes_with}"))
            inputs |= {"weights": {stage.encodes_with: f"train.{stage.encodes_with}"}}
            if not on_the_fly:
                inputs |= {"arrays": encode_name}
        if stage.starts_from:
            inputs |= {"init": f"train.{stage.starts_from}"}
        config = replace(own, method=recipe.method, model=_only(recipe.model, stage.reads), stage=stage.name, encode_on_the_fly=on_the_fly)
        steps.append(step(f"train.{stage.name}", train.run, config, "train", **inputs))
    return steps


def _only(model: Any, reads: tuple[str, ...]) -> Any:
    """The method's config with the fields that are not read put back to their defaults; all are read when none is named."""
    return type(model)(**{name: getattr(model, name) for name in reads}) if reads else model


def mermaid(steps: list[Step]) -> str:
    """The graph as a Mermaid diagram, for documentation."""
    lines = ["graph LR"]
    for step in steps:
        lines.append(f"  {step.name.replace('.', '_')}[{step.name}]")
        lines += [f"  {source.replace('.', '_')} --> {step.name.replace('.', '_')}" for source in dict.fromkeys(step.upstream().values())]
    return "\n".join(lines)
