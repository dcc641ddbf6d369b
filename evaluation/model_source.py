"""Which model generates: one concrete registered version, resolved once, opened where it is needed."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import UserError
from infra.scratch import scratch_folder
from infra.storage import Location, sha256_of_tree
from training.served import TRAINED_UIDS

SETTINGS = "mvforge.json"


@dataclass(frozen=True)
class ModelSource:
    """A concrete model version and where its generator folder is.

    Attributes:
        name, version, uri: the registered version; `uri` is `models:/<name>/<version>`.
        requested: what the config asked for (an alias, for example); None for the pipeline's own model.
        tracking_uri: the registry the version lives in; None when there is none.
        folder: the generator folder in the store; None when it must be downloaded from the registry.
        build_id: the build that registered the version, when it is the pipeline's own.
        content: for a plain folder, a hash of what it holds.
    """

    name: str
    version: str
    uri: str
    requested: str | None = None
    tracking_uri: str | None = None
    folder: Location | None = None
    build_id: str | None = None
    content: str | None = None

    @property
    def identity(self) -> str:
        """Text that differs for any two models: version numbers repeat in different registries, and folders are moved."""
        if self.content is not None:
            return f"content|{self.content}"
        return f"{self.uri}|{self.build_id or self.tracking_uri}"

    def open(self, scratch: Path) -> Path:
        """The generator folder on this machine; fetched below `scratch` when it is elsewhere."""
        if self.folder is not None:
            if self.folder.is_local:
                return self.folder.local_path()
            self.folder.download(scratch / "generator")
            return scratch / "generator"
        from infra import tracking  # MLflow takes seconds to import and is needed on this branch only

        assert self.tracking_uri is not None
        return tracking.download(self.tracking_uri, tracking.ModelVersion(self.name, self.version, self.uri), scratch)

    def trained_uids(self) -> list[str] | None:
        """The objects this version was trained on, as registered with it; None for a model that does not tell."""
        with scratch_folder("model") as scratch:
            listed = self.open(Path(scratch)) / TRAINED_UIDS
            return json.loads(listed.read_text()) if listed.exists() else None

    def described(self) -> dict[str, Any]:
        """For `model.json` and reports."""
        return {
            "name": self.name,
            "version": self.version,
            "uri": self.uri,
            "requested": self.requested,
            "tracking_uri": self.tracking_uri,
            "build_id": self.build_id,
            "content": self.content,
        }


def find(requested: str | None, registered: Location | None, tracking_uri: str | None) -> ModelSource:
    """The version named by `requested` (resolved here, once), else the one `registered` (the register step's output) made.

    Raises:
        UserError: no such model, no registry to ask, or nothing registered.
    """
    if requested is None:
        if registered is None or not (registered / "version.json").exists():
            raise UserError(
                "no registered model to generate with", "run the register step first, or set generate.model=models:/<name>@<alias>"
            )
        made = (registered / "version.json").read_json()
        return ModelSource(
            made["name"],
            str(made["version"]),
            made["uri"],
            None,
            tracking_uri,
            registered / "model",
            made.get("build_id"),
        )
    if tracking_uri is None:
        raise UserError(f"'{requested}' needs a model registry, and none is in use", "set MLFLOW_TRACKING_URI")
    from infra import tracking

    found = tracking.resolve(tracking_uri, requested)
    return ModelSource(found.name, str(found.version), found.uri, requested, tracking_uri)


def named(text: str, tracking_uri: str | None) -> ModelSource:
    """A model as users name it: `models:/...` in the registry, or the path or URL of a generator folder.

    Raises:
        UserError: no such model, no registry to ask, or a folder that holds no generator.
    """
    return find(text, None, tracking_uri) if text.startswith("models:/") else of_folder(Location(text))


def of_folder(folder: Location) -> ModelSource:
    """A generator folder that register (or diffusers' `save_pretrained`) wrote.

    Raises:
        UserError: it holds no `mvforge.json`.
    """
    if not (folder / SETTINGS).exists():
        raise UserError(
            f"{folder.shown} is not a generator folder: it has no {SETTINGS}",
            "give the model folder that register wrote, or models:/NAME@ALIAS",
        )
    if folder.is_local:
        content = sha256_of_tree(folder.local_path())
    else:  # hashing would fetch all of it; whoever changes a file there changes its size or time
        listing = [[entry.name, entry.size, entry.mtime] for entry in folder.walk()]
        content = hashlib.sha256(json.dumps(listing).encode()).hexdigest()
    return ModelSource(folder.name, "", folder.shown, folder=folder, content=content)
