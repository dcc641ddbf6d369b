"""The verbs that train without the graph."""

from typing import Any

from pipelines.commands import prove_options
from pipelines.commands.verb import add_verb, later, recipe_arguments

TRAIN_HELP = """Reads what a finished run left in the store (views, kept list, encoded arrays, earlier checkpoints; see `mvforge status`)
and writes checkpoint/, history.jsonl, validation.jsonl, loss.png and pictures/ to --out. No Ray; MLflow with --track or
where MLFLOW_TRACKING_URI is set. An interrupted call goes on at its last checkpoint when it is given again; on SIGTERM it writes one
and ends with status 75.

  mvforge train tiny unet1 --out /data/unet1                              in this process
  torchrun --standalone --nproc-per-node 2 -m pipelines train tiny unet1 --out /data/unet1
                                                                          two processes or GPUs, also to go on with the above
  mvforge train tiny unet2 --init /data/unet1 --out /data/unet2           from that checkpoint instead of the store's
  mvforge train tiny unet1 --out /data/long --set train.unet1.steps=2000  other settings
  mvforge train small unet1 --try-run                                     what will it need? two updates on made-up data

--try-run needs no store and leaves nothing behind. It prints weights, peak memory, seconds an update, objects/s, TFLOP/s and the
projected time of the stage, as one of the processes that the recipe asks for, and refuses what does not fit into memory."""


def add_train_verb(verbs: Any) -> None:
    """train."""
    trainer = add_verb(
        verbs,
        "train",
        later("train_tool", "train"),
        "train one stage of a recipe without Ray, or try how much it needs",
        "mvforge train tiny mvae --try-run",
        TRAIN_HELP,
    )
    recipe_arguments(trainer)
    trainer.add_argument("stage", help="a stage of the recipe's method: mvae, unet1, unet2 or unet3 for mvdiffusionpp")
    trainer.add_argument("--out", metavar="DIR", help="folder for the results, on this machine's disk")
    trainer.add_argument("--init", metavar="DIR", help="results of the stage to start from, instead of the store's")
    trainer.add_argument("--track", action="store_true", help="log figures to $MLFLOW_TRACKING_URI or the sqlite file in the store")
    trainer.add_argument("--try-run", action="store_true", help="two updates at the real sizes on made-up data, nothing kept")


def add_prove_verb(verbs: Any) -> None:
    """prove."""
    prover = add_verb(
        verbs,
        "prove",
        later("prove_tool", "prove"),
        "train small models and check, claim by claim, what they learn",
        "mvforge prove all --out proofs",
        prove_options.DETAILS,
    )
    prove_options.add_options(prover)
    prover.set_defaults(status=lambda result: int(not result["holds"]))
