"""What `python -m training.bench` and `mvforge bench train` can be asked; importing this costs nothing."""

import argparse
from pathlib import Path

VIEWS = (9, 18, 33, 42)  # 1 or 10 conditions with 8 kept or all 32 targets (MVDiffusion++ §4.3, §5.5)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the training benchmark."""
    views = ",".join(map(str, VIEWS))
    parser.add_argument("--shapes", choices=("full", "tiny"), help="sizes to measure (default: full on CUDA, tiny on a CPU)")
    parser.add_argument("--views", default=views, help=f"views per object of the training steps (default {views})")
    parser.add_argument("--rows", default="*", metavar="PATTERN", help="only rows whose name matches, for example 'step V=9*'")
    parser.add_argument("--out", type=Path, help="JSON file of the results; a second call with it measures only what is missing")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="begin no row that would end later; call again to go on")
    parser.add_argument("--list", action="store_true", help="print the names of the rows and stop")
