"""A registered model as MLflow serves it: condition pictures in, generated views out. Named by import path in the version."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from rendering.codecs import encode_image
from rendering.view_set import ViewSet
from training.lookup import load_generator
from training.methods.base import Generator
from training.photo import given_views

INPUT_COLUMNS = {"uid": "string", "condition": "binary", "seed": "long"}
TRAINED_UIDS = "trained_uids.json"  # in the generator folder: what the model has seen
OUTPUT_COLUMNS = {"uid": "string", "view_index": "long", "azimuth_deg": "double", "elevation_deg": "double", "image": "binary"}


def _load_pyfunc(data_path: str) -> "ServedGenerator":
    """What `mlflow.pyfunc.load_model` calls with the generator folder."""
    import torch

    return ServedGenerator(load_generator(Path(data_path), "cuda" if torch.cuda.is_available() else "cpu"))


class ServedGenerator:
    """Rows of conditions -> rows of views.

    Input: one row per condition picture: `uid` (rows of one object share it, the first is the reference), `condition`
    (encoded picture, any size, alpha = the object's mask), `seed` (of the object's first row). Output: one row per
    generated view with the angles in the frame where the reference has azimuth 0, and the view as lossless WebP.
    """

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        rows: list[dict[str, Any]] = []
        for uid, group in model_input.groupby("uid", sort=False):
            views = self.generator.generate(_conditions(str(uid), list(group["condition"])), int(group["seed"].iloc[0]), **(params or {}))
            rows += [
                {
                    "uid": str(uid),
                    "view_index": n,
                    "azimuth_deg": float(views.azimuth_deg[n]),
                    "elevation_deg": float(views.elevation_deg[n]),
                    "image": encode_image(views.rgba[n]),
                }
                for n in range(len(views))
            ]
        return pd.DataFrame(rows, columns=list(OUTPUT_COLUMNS))


def _conditions(uid: str, pictures: list[bytes]) -> ViewSet:
    """Condition views of the size of the first picture."""
    images = []
    for data in pictures:
        with Image.open(io.BytesIO(data)) as image:
            images.append(image.convert("RGBA"))
    return given_views(uid, np.stack([np.asarray(image.resize(images[0].size, Image.Resampling.LANCZOS)) for image in images]))
