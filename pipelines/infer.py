#!/usr/bin/env python
"""Batch inference as a Ray job: `ray job submit --working-dir . -- python pipelines/infer.py --model M --input IN --out OUT`.

Takes what `mvforge generate` takes. Places are absolute paths that every node sees, or URLs.
"""

import sys
from pathlib import Path

# Ray puts the script's own folder on the path, not the repository root.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.__main__ import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
