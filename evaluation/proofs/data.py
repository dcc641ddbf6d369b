"""What a proof trains on and is held against, as one file that travels: pictures of all views, cameras, splits, families.

The file is a NumPy archive without pickles, so that a machine with torch alone can read it.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from infra.errors import UserError
from rendering.cameras import orbit
from rendering.view_set import CONDITION, TARGET, ViewSet
from training.methods.base import Arrays, TrainObject

TRAIN, VAL, TEST, UNSEEN = "train", "val", "test", "unseen"
FORMAT_VERSION = 1
_ARRAYS = ("pictures", "is_condition", "azimuth_deg", "elevation_deg", "radius", "surface")


@dataclass(frozen=True)
class ProofData:
    """Views of many objects on one rig.

    Attributes:
        uids, families, splits: per object; a family is what the generator that made the object is called.
        pictures: uint8 `[N, V, S, S, 4]` straight alpha; views as rendered, targets first or last as the rig has them.
        is_condition: bool `[V]`.
        azimuth_deg, elevation_deg, radius: `[N, V]`; fov_deg: of all views.
        surface: float32 `[N, P, 3]`, points spread over the object's surface in the frame of its cameras; NaN where
            no mesh was kept.
        encoded: arrays by name, each with one entry per object (latents, image tokens, ...); empty before encoding.
    """

    uids: list[str]
    families: list[str]
    splits: list[str]
    pictures: np.ndarray
    is_condition: np.ndarray
    azimuth_deg: np.ndarray
    elevation_deg: np.ndarray
    radius: np.ndarray
    fov_deg: float
    surface: np.ndarray
    encoded: dict[str, np.ndarray]

    @property
    def train(self) -> list[str]:
        """Uids to train on, sorted; the name is the one the loop asks for."""
        return self.of(TRAIN)

    @cached_property
    def _position(self) -> dict[str, int]:
        return {uid: n for n, uid in enumerate(self.uids)}

    def of(self, split: str) -> list[str]:
        return sorted(uid for uid, name in zip(self.uids, self.splits, strict=True) if name == split)

    def family(self, uid: str) -> str:
        return self.families[self._position[uid]]

    def views(self, uid: str) -> ViewSet:
        n = self._position[uid]
        return ViewSet(
            uid=uid,
            rgba=self.pictures[n],
            camera=orbit(self.azimuth_deg[n], self.elevation_deg[n], self.radius[n], self.fov_deg),
            roles=tuple(CONDITION if given else TARGET for given in self.is_condition),
            azimuth_deg=self.azimuth_deg[n],
            elevation_deg=self.elevation_deg[n],
            radius=self.radius[n],
            rig="proof",
            origin="blender",
        )

    def surface_of(self, uid: str) -> np.ndarray:
        return self.surface[self._position[uid]]

    def read(self, uid: str) -> TrainObject:
        n = self._position[uid]
        arrays: Arrays | None = {name: values[n] for name, values in self.encoded.items()} or None
        return TrainObject(self.views(uid), arrays)

    def only(self, uids: list[str], split: str = TRAIN) -> "ProofData":
        """The same data with `uids` as the whole of one split; the others of that split belong to none."""
        chosen = set(uids)
        splits = [split if uid in chosen else ("" if name == split else name) for uid, name in zip(self.uids, self.splits, strict=True)]
        return replace(self, splits=splits)

    def with_one_condition(self) -> "ProofData":
        """Objects that show their first condition view alone, beside their targets. Encoded arrays are cut to match."""
        given = np.flatnonzero(self.is_condition)
        kept = np.setdiff1d(np.arange(len(self.is_condition)), given[1:])
        encoded = dict(self.encoded)
        if "latents" in encoded:
            encoded["latents"] = encoded["latents"][:, kept]
            tokens = encoded["clip_tokens"]
            encoded["clip_tokens"] = tokens[:, : tokens.shape[1] // len(given)]
        views = {name: getattr(self, name)[:, kept] for name in ("pictures", "azimuth_deg", "elevation_deg", "radius")}
        return replace(self, is_condition=self.is_condition[kept], encoded=encoded, **views)

    def with_unseen(self, families: tuple[str, ...]) -> "ProofData":
        """All objects of these families move to the split `unseen`, so that nothing is trained on them."""
        splits = [UNSEEN if family in families else name for family, name in zip(self.families, self.splits, strict=True)]
        return replace(self, splits=splits)

    def with_encoded(self, encoded: dict[str, np.ndarray]) -> "ProofData":
        return replace(self, encoded=encoded)

    def save(self, path: Path) -> None:
        """Write the archive whole or not at all."""
        plain = {name: np.asarray(getattr(self, name)) for name in ("uids", "families", "splits")}
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        encoded = {f"encoded.{name}": values for name, values in self.encoded.items()}
        unfinished = Path(path).with_suffix(".part.npz")
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(unfinished, version=FORMAT_VERSION, fov_deg=self.fov_deg, **plain, **arrays, **encoded)
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> "ProofData":
        """Raises UserError for a missing file or one of another format."""
        if not Path(path).is_file():
            raise UserError(f"there is no proof data at {path}", "make it with: mvforge prove data --out FILE")
        with np.load(path, allow_pickle=False) as archive:
            if "version" not in archive or int(archive["version"]) != FORMAT_VERSION:
                raise UserError(f"{path} is not proof data of format {FORMAT_VERSION}", "make it again with: mvforge prove data --out FILE")
            prefix = "encoded."
            return cls(
                uids=archive["uids"].tolist(),
                families=archive["families"].tolist(),
                splits=archive["splits"].tolist(),
                **{name: archive[name] for name in _ARRAYS},
                fov_deg=float(archive["fov_deg"]),
                encoded={name.removeprefix(prefix): archive[name] for name in archive.files if name.startswith(prefix)},
            )
