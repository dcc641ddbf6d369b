"""`mvforge`: plan, run and inspect the pipeline, and single tools on plain files."""

import argparse
import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from infra import logs
from infra.errors import UserError
from infra.notice import STATUS, Preempted
from pipelines.commands.bench_verbs import add_bench_verbs
from pipelines.commands.chaos_verbs import add_chaos_verb
from pipelines.commands.evaluation_verbs import add_evaluation_verbs
from pipelines.commands.head_verbs import add_head_verbs
from pipelines.commands.keep_verbs import add_keep_verbs
from pipelines.commands.model_verbs import add_model_verbs
from pipelines.commands.notice_verbs import add_notice_verb
from pipelines.commands.plan_verbs import add_planning_verbs
from pipelines.commands.report_verb import add_report_verb
from pipelines.commands.step_verbs import add_step_verbs
from pipelines.commands.tracking_verbs import add_tracking_verbs
from pipelines.commands.train_verbs import add_prove_verb, add_train_verb
from pipelines.commands.view_verbs import add_view_verbs

EPILOG = """examples:
  mvforge demo                                        the tiny recipe from 3D files to a report, as a Ray job
  mvforge plan tiny                                   what would run, what is reused, and why
  mvforge run tiny --set source=local:/data/objects   your own .glb/.gltf files
  mvforge run tiny --rerun render                     render again, nothing else
  mvforge run tiny --only eval                        generate, reconstruct, score, gate, report
  mvforge status tiny                                 done, running, stale, failed, missing, and where
  mvforge models list                                 registered versions, their figures, the champion
  mvforge compare tiny tiny-3fa2c1                    two evaluations object by object, with significance

Results go to stdout, everything else to stderr; --json prints JSON alone on stdout.
The store is $MVFORGE_STORE (default ~/.mvforge/store), the tracking store $MLFLOW_TRACKING_URI
(default a sqlite file in the store)."""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="mvforge",
        description="From 3D objects to trained, evaluated, registered multi-view generators.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for add in (
        add_step_verbs,
        add_train_verb,
        add_prove_verb,
        add_head_verbs,
        add_view_verbs,
        add_evaluation_verbs,
        add_bench_verbs,
        add_report_verb,
        add_model_verbs,
        add_keep_verbs,
        add_planning_verbs,
        add_tracking_verbs,
        add_notice_verb,
        add_chaos_verb,
    ):
        add(verbs)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0 fine, 1 a step failed, 2 a mistake the user can mend, 75 told to end by SIGTERM,
    130 interrupted."""
    options = parser().parse_args(arguments)
    out = sys.stdout
    try:
        with logs.configured(options.log_format, until_exit=arguments is None), _aside(options, until_exit=arguments is None):
            return _run(options, out)
    except UserError as error:  # of the logging itself
        return _refused(options, error, out)


@contextlib.contextmanager
def _aside(options: argparse.Namespace, until_exit: bool) -> Iterator[None]:
    """With --json, whatever else prints goes to stderr: Ray tells on stdout of workers that died, and what workers printed there."""
    if not options.json or getattr(options, "watch", False):  # a watch prints its own lines of JSON
        yield
    elif until_exit:
        sys.stdout = sys.stderr
        yield
    else:
        with contextlib.redirect_stdout(sys.stderr):
            yield


def _refused(options: argparse.Namespace, error: UserError, out: TextIO) -> int:
    logs.say(f"mvforge: {error}", logging.ERROR)
    if options.json:
        print(json.dumps({"error": error.message, "mend": error.mend}), file=out)
    return 2


def _run(options: argparse.Namespace, out: TextIO) -> int:
    try:
        result = options.run(options)
    except UserError as error:
        return _refused(options, error, out)
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; nothing may be flushed into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        return 0
    except Preempted as error:
        logs.say(f"mvforge: {error}; run the same command again to go on", logging.WARNING)
        return STATUS
    except KeyboardInterrupt:
        logs.say("mvforge: interrupted; run the same command again to go on", logging.WARNING)
        return 130
    except Exception:
        if not logs.is_json():
            raise
        logging.getLogger("mvforge").exception("mvforge %s ended with an error", options.verb)
        return 1
    if options.json:
        print(json.dumps(result, indent=2, sort_keys=True), file=out, flush=True)
    return int(options.status(result))


if __name__ == "__main__":
    sys.exit(main())
