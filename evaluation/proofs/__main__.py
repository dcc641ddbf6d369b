"""`python -m evaluation.proofs NAME --data FILE --out FOLDER`: the proofs on a machine with torch and diffusers alone."""

import argparse
import sys

from evaluation.proofs.run import GPU_PROOFS, PROOFS, run_proof
from infra.errors import UserError


def main() -> int:
    """Run one proof; 0 when every claim holds, 1 when one does not, 2 for a mistake the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.proofs", description=__doc__)
    parser.add_argument("proof", choices=[*PROOFS, *GPU_PROOFS, "all"])
    parser.add_argument("--data", required=True, help="file made by `mvforge prove data`")
    parser.add_argument("--out", required=True, help="folder for trainings, results and pictures; run again to go on")
    parser.add_argument("--setup", default="cpu", help="cpu or gpu")
    parser.add_argument("--share", type=float, default=1.0, help="train for this share of the steps, to try the command out")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves the choice to torch")
    options = parser.parse_args()
    try:
        return run_proof(options.proof, options.data, options.out, options.setup, options.share, options.threads)
    except UserError as error:
        print(f"proofs: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
