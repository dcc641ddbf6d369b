"""The table of procedural families. A family turns recorded random choices into the parts of one object."""

from collections.abc import Callable

from rendering.sources.shapes.draw import Draw
from rendering.sources.shapes.furniture import bookshelf, chair, lamp, table
from rendering.sources.shapes.outdoors import house, mushroom, robot, tree
from rendering.sources.shapes.parts import Part
from rendering.sources.shapes.vehicles import car, rocket, sailboat, train
from rendering.sources.shapes.vessels import mug, teapot, vase

FAMILIES: dict[str, Callable[[Draw], list[Part]]] = {
    "vase": vase,
    "lamp": lamp,
    "chair": chair,
    "table": table,
    "mug": mug,
    "rocket": rocket,
    "tree": tree,
    "house": house,
    "car": car,
    "robot": robot,
    "sailboat": sailboat,
    "mushroom": mushroom,
    "teapot": teapot,
    "bookshelf": bookshelf,
    "train": train,
}
