"""Options of the `prove` verb; importing this costs nothing."""

import argparse

DATA, PAGE = "data", "page"

DETAILS = """The proofs on two cores (--setup cpu, the default):

  adapt       a 3-channel VAE is imported as a published one would be, and learns the mask
  memorise    8 objects by heart: one picture brings back 32 views
  condition   on new objects the condition picture is used: against the mean view, copying, swapped conditions
  dropout     view dropout: joint against grouped sampling, quality at equal time, step time and memory
  all         the four, in that order

and on one GPU (--setup gpu):

  compare     new objects of seen families, and families never seen, against copying, mean view and nearest object
  conditions  1, 2, 4 and 10 condition views
  ablate      attention, view embeddings, eps and v, image tokens, at equal compute

Every command goes on where it was when it is given again, and exits with 1 when a claim does not hold.

  mvforge prove data --out data.npz            the one file they need: renders the recipe `proof` into the store
  mvforge prove page --out proofs              the results page, from what was measured below --out
  python -m evaluation.proofs condition --data data.npz --out proofs     the same proofs on a machine that has torch,
                                               diffusers and transformers alone, from a checkout"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Everything but --json."""
    parser.add_argument("proof", metavar="PROOF", help=f"a proof, `all`, `{DATA}` or `{PAGE}`")
    parser.add_argument("--out", default="proofs", help="folder of trainings and results; the file, for `data` (default proofs)")
    parser.add_argument("--data", help="file made by `prove data` (default: OUT/data.npz, made when it is missing)")
    parser.add_argument("--setup", default="cpu", help="cpu or gpu (default cpu)")
    parser.add_argument("--share", type=float, default=1.0, help="train for this share of the steps: tries a command out, proves nothing")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: as torch chooses)")
    parser.add_argument("--page", default="docs/results", help="folder of the results page (default docs/results)")
    parser.add_argument("--store", help="where rendered data lie (default $MVFORGE_STORE or ~/.mvforge/store)")
