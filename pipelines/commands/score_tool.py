"""The verbs score-views, score-mesh, seeds and protocols."""

import argparse
import json
from typing import Any

from infra.errors import UserError


def score_pictures(options: argparse.Namespace) -> dict[str, Any]:
    """The `score-views` verb."""
    from evaluation.metrics.learned import LocalWeights
    from evaluation.score_views import FolderOptions, convention_table, score_views

    asked = FolderOptions(
        protocol=options.protocol,
        include=tuple(options.include),
        exclude=tuple(options.exclude),
        background=options.background,
        reference_masks=options.reference_masks,
        generated_masks=options.generated_masks,
        reference_fov_deg=options.reference_fov,
        generated_fov_deg=options.generated_fov,
        object_name=options.object,
        weights=LocalWeights(options.lpips, options.clip, options.features),
    )
    if options.conventions:
        return _table(options, convention_table(options.reference, options.generated[0], asked))
    result = score_views(options.reference, options.generated, asked)
    if not options.json:
        _figures(result)
        for metric, stats in result.get("best_of", {}).items():
            best, mean = stats["best"]["mean"], stats["mean"]["mean"]
            if best is not None and mean is not None:
                print(f"best of {stats['seeds']} {metric:20} {best:.6g}   (mean {mean:.6g}, between seeds {stats['seed_std']:.3g})")
        _reasons(result["reasons"])
        _protocol(result["protocol"])
    return result


def score_meshes(options: argparse.Namespace) -> dict[str, Any]:
    """The `score-mesh` verb."""
    from evaluation.protocols import protocol_named
    from evaluation.score_mesh import convention_table, score_mesh

    if options.conventions:
        return _table(options, convention_table(options.reference, options.generated, options.normalize, options.up))
    protocol = protocol_named(options.protocol)
    result = score_mesh(options.reference, options.generated, options.normalize, protocol, options.align or "", options.up)
    if not options.json:
        _figures(result)
        for note in result["notes"]:
            print(f"note: {note}")
        _protocol(result["protocol"])
    return result


def _table(options: argparse.Namespace, rows: list[dict[str, Any]]) -> dict[str, Any]:
    from evaluation.conventions.table import as_markdown

    if not options.json:
        print(as_markdown(rows))
    return {"completed": 1, "failed": 0, "rejected": 0, "conventions": rows}


def _figures(result: dict[str, Any]) -> None:
    for key, value in result.items():
        if value is None or isinstance(value, str | int | float):
            print(f"{key:24} {value:.6g}" if isinstance(value, float) else f"{key:24} {'-' if value is None else value}")


def _reasons(reasons: dict[str, str]) -> None:
    for metric, reason in reasons.items():
        print(f"no {metric}: {reason}")


def _protocol(protocol: dict[str, Any]) -> None:
    """Every convention, a line each; nested ones indented."""
    print("\nprotocol")
    for key, value in protocol.items():
        if isinstance(value, dict):
            print(f"  {key}")
            for name, text in value.items():
                print(f"    {name}: {text if isinstance(text, str) else json.dumps(text)}")
        else:
            print(f"  {key}: {value if isinstance(value, str) else json.dumps(value)}")


def seeds(options: argparse.Namespace) -> dict[str, Any]:
    """The `seeds` verb."""
    from evaluation.best_of import best_of
    from evaluation.compare import refuse_different
    from evaluation.score_table import read_scores
    from infra.storage import Location
    from pipelines.artifact import LABEL, Store
    from pipelines.context import absolute, store_location

    store, tables = Store(store_location(options.store)), []
    for text in options.scores:
        record = store.record("score", text) if LABEL.fullmatch(text) else None
        tables.append(read_scores(store.data(record) if record is not None else Location(absolute(text, "the score folder"))))
    if len(tables) < 2:
        raise UserError("one seed alone has no spread", "name two finished score steps or folders at least")
    for table in tables[1:]:
        refuse_different(tables[0], table)
    metrics = {name: best_of([table.values.get(name, {}) for table in tables], name) for name in tables[0].values}
    if not options.json:
        print(f"{len(tables)} seeds on {tables[0].protocol['name']}, evaluation set {tables[0].evaluation_set[:16]}\n")
        print(f"{'metric':28} {'mean':>12} {'between seeds':>14} {f'best of {len(tables)}':>12}")
        for name, told in metrics.items():
            if told["mean"]["mean"] is not None:
                cells = (told["mean"]["mean"], told["seed_std"], told["best"]["mean"])
                print(
                    f"{name:28} "
                    + " ".join(f"{'-' if v is None else format(v, '.5g'):>{w}}" for v, w in zip(cells, (12, 14, 12), strict=True))
                )
        print("\nThe best of n is picked by the truth, object by object: it compares only with other figures of the same n.")
    return {"completed": len(tables), "failed": 0, "rejected": 0, "metrics": metrics}


def protocols(options: argparse.Namespace) -> dict[str, Any]:
    """The `protocols` verb."""
    return {"list": _list, "show": _show, "import": _import, "refit": _refit, "example": _example}[options.what](options)


def _needed(options: argparse.Namespace, *names: str) -> None:
    for name in names:
        if getattr(options, name) is None:
            said = "the protocol's name" if name == "name" else f"--{name.replace('_', '-')}"
            raise UserError(f"`mvforge protocols {options.what}` needs {said}", "see `mvforge protocols --help`")


def _list(options: argparse.Namespace) -> dict[str, Any]:
    from evaluation.protocols import PROTOCOLS

    if not options.json:
        for name, one in PROTOCOLS.items():
            print(f"{name:22} {one.summary}")
    return {"completed": len(PROTOCOLS), "failed": 0, "rejected": 0, "protocols": {name: one.summary for name, one in PROTOCOLS.items()}}


def _show(options: argparse.Namespace) -> dict[str, Any]:
    from evaluation.protocols import protocol_named
    from evaluation.protocols.objects import render_command

    _needed(options, "name")
    protocol = protocol_named(options.name)
    described = protocol.described()
    if not options.json:
        _protocol(described)
        if protocol.rig:
            print(f"\ntruth\n  {render_command(protocol)}")
        if protocol.fetch:
            print(f"\nobjects\n{protocol.fetch}")
    return {"completed": 1, "failed": 0, "rejected": 0, "protocol": described, "render": render_command(protocol), "fetch": protocol.fetch}


def _import(options: argparse.Namespace) -> dict[str, Any]:
    from evaluation.protocols import protocol_named
    from evaluation.protocols.objects import import_objects

    _needed(options, "name", "objects", "out")
    result = import_objects(protocol_named(options.name), options.objects, options.out, options.up)
    if not options.json:
        print(f"{result['completed']} objects -> {result['out']}, {result['rejected']} others left out; checksums {result['checksums']}")
        if result["count"]:
            print(f"note: {result['count']}" + (f"; missing: {', '.join(result['missing'])}" if result["missing"] else ""))
        for name, reason in result["reasons"].items():
            print(f"failed {name}: {reason}")
    return result


def _refit(options: argparse.Namespace) -> dict[str, Any]:
    from evaluation.protocols.refit_folder import refit_folder

    _needed(options, "images", "from_fov", "to_fov", "out")
    result = refit_folder(options.images, options.from_fov, options.to_fov, options.out, options.size)
    if not options.json:
        print(f"{result['completed']} pictures -> {options.out}: framed {result['scale']:.4f} of their side")
    return result


def _example(options: argparse.Namespace) -> dict[str, Any]:
    from evaluation.conventions.example import write_example

    _needed(options, "out")
    written = write_example(options.out)
    if not options.json:
        for name, path in written.items():
            print(f"{name:14} {path}")
    return {"completed": 1, "failed": 0, "rejected": 0, **written}
