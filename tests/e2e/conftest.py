"""The `smoke` chain, built once per test session through the real command line, and copies of it to break."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.__main__ import main
from tests.conftest import ROOT


@dataclass(frozen=True)
class Chain:
    """A store with a finished run, and the environment in which commands find it."""

    home: Path
    result: dict[str, Any]

    @property
    def store(self) -> Path:
        return self.home / "store"

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k not in ("MVFORGE_STORE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS")}
        return {**kept, "MVFORGE_HOME": str(self.home), "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start the command line in its own process, with a Ray cluster of its own, as a person would."""
        command = [sys.executable, "-m", "pipelines", *arguments]
        return subprocess.Popen(command, env=self.environment, cwd=self.home, text=True, start_new_session=True, **options)

    def mvforge(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        """Run the command line in this process, on the session's Ray cluster; returns its JSON."""
        output = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
            patch.setenv("MVFORGE_HOME", str(self.home))
            for name in ("MVFORGE_STORE", "MLFLOW_TRACKING_URI"):
                patch.delenv(name, raising=False)
            assert main([*arguments, "--json"]) == status
        return json.loads(output.getvalue())

    def record(self, step: str, label: str = "smoke") -> dict[str, Any]:
        return json.loads((self.store / step / label / "record.json").read_text())

    def data(self, step: str, label: str = "smoke") -> Path:
        return self.store / step / label / self.record(step, label)["build_id"]


@pytest.fixture(scope="session")
def smoke_chain(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Chain:
    """`mvforge run smoke` from nothing."""
    chain = Chain(tmp_path_factory.mktemp("smoke"), {})
    return Chain(chain.home, chain.mvforge("run", "smoke"))


@pytest.fixture
def chain(smoke_chain: Chain, tmp_path: Path) -> Iterator[Chain]:
    """A private copy of the finished chain."""
    shutil.copytree(smoke_chain.home, tmp_path / "home")
    yield Chain(tmp_path / "home", smoke_chain.result)
