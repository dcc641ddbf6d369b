"""From generated views to figures, meshes, a champion and a page."""

import os

# Ray tells a task its share of the cores by OMP_NUM_THREADS. libigl listens to a variable of its own, once, at its first use;
# without it every task would take all cores, and two tasks on one machine would be no faster than one.
if cores := os.environ.get("OMP_NUM_THREADS"):
    os.environ.setdefault("IGL_NUM_THREADS", cores)
