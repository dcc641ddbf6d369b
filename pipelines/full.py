#!/usr/bin/env python
"""The whole pipeline as a Ray job: `ray job submit --working-dir . -- python pipelines/full.py [RECIPE] [options]`.

Takes what `mvforge run` takes; without arguments it runs the `tiny` recipe. From a head that was started in
the repository root, `ray job submit pipelines/full.py` works as well.
"""

import sys
from pathlib import Path

# Ray puts the script's own folder on the path, not the repository root.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.__main__ import main  # noqa: E402

if __name__ == "__main__":
    arguments = sys.argv[1:]
    if not arguments or arguments[0].startswith("-") and "-h" not in arguments and "--help" not in arguments:
        arguments = ["tiny", *arguments]
    sys.argv[1:] = ["run", *arguments]
    sys.exit(main())
