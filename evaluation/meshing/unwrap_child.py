"""The child process in which xatlas runs: reads vertices, triangles, padding and resolution, writes the unwrapped mesh.

xatlas wakes its threads for the last time without holding their lock, so that taking an atlas down can wait for ever. Here
it is never taken down: the process ends as soon as the result is written. Started by path, it imports nothing of the project.
"""

import io
import os
import sys

import numpy as np
import xatlas


def main() -> None:
    given = np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)
    atlas = xatlas.Atlas()
    atlas.add_mesh(given["vertices"], given["faces"])
    packing = xatlas.PackOptions()
    packing.padding, packing.resolution = int(given["padding"]), int(given["resolution"])
    packing.create_image = False
    atlas.generate(xatlas.ChartOptions(), packing)
    index, faces, uv = atlas[0]
    made = io.BytesIO()
    np.savez(made, index=index, faces=faces, uv=uv)
    sys.stdout.buffer.write(made.getvalue())
    sys.stdout.flush()


if __name__ == "__main__":
    status = 1
    try:
        main()
        status = 0
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)
