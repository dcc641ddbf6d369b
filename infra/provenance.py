"""Which state of the code runs: recorded beside results, never part of their identity."""

import functools
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@functools.cache
def git_commit() -> str:
    """The commit of this checkout, with `-dirty` when files differ from it.

    From `$MVFORGE_GIT_COMMIT` where the code runs without its `.git` folder (a packaged job); `unknown` when neither helps.
    """
    if carried := os.environ.get("MVFORGE_GIT_COMMIT"):
        return carried
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
