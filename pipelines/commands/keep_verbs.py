"""The words for keeping a store in order and asking for help: `gc` and `support-bundle`."""

from typing import Any

from pipelines.commands.verb import add_verb, later

GC_HELP = """Lists what nothing needs any more, with its bytes; --delete removes it. Without names, of the whole store with its caches;
with names, of these labels alone (`tiny` means also tiny-3fa2c1 and its like).

  build        no record names it, no current build was made from it, no interrupted run goes on with it, no registered model has
               its files there
  checkpoint   of a finished training, or half-written by one that died
  piece        renderings with settings that no build has, downloads that no build lists, halves of pieces, caches of steps without
               builds; other pieces in a cache cannot be traced to a build and stay
  temporary    unfinished files whose writer is gone, at least an hour old

What a living process holds stays, and while any process builds something, so do the builds that it may read. A record that cannot be
read stops everything. A kill in the middle harms nothing; run it again. Weights that another recipe reads by path out of the store
are not known here: copy such weights out of it first."""

BUNDLE_HELP = """One .tar.gz to attach to a report: versions, recipe with settings, records, what is in progress and why it failed, ledgers'
reason counts (no pictures, no meshes, no weights), ends of logs (mvforge's heads, Ray's session), disk and memory, environment.

Keys in URLs, values that look like secrets and the values of variables with secret-like names are replaced by ***. Look into it
before you send it: labels, paths, host and object names are in it."""


def add_keep_verbs(verbs: Any) -> None:
    """gc, support-bundle."""
    sweeper = add_verb(
        verbs,
        "gc",
        later("gc_tool", "collect"),
        "list, then with --delete remove, what of the store nothing needs any more",
        "mvforge gc --older-than 7d",
        GC_HELP,
    )
    sweeper.add_argument(
        "names", nargs="*", metavar="LABEL", help="a label, or a recipe's name for all of its labels (default: everything)"
    )
    sweeper.add_argument("--delete", action="store_true", help="remove what is listed; without it nothing changes")
    sweeper.add_argument(
        "--older-than", default="1h", metavar="TIME", help="spare what changed within this time: 90s, 12h, 7d, 2w (default 1h)"
    )
    sweeper.add_argument("--store", help="where results lie: a path or a URL (default $MVFORGE_STORE or ~/.mvforge/store)")
    sweeper.set_defaults(status=lambda result: int(bool(result["failed"])))
    bundle = add_verb(
        verbs,
        "support-bundle",
        later("support_tool", "write_bundle"),
        "gather what a report of a problem needs in one file, without secrets",
        "mvforge support-bundle tiny --out problem.tar.gz",
        BUNDLE_HELP,
    )
    bundle.add_argument("recipe", nargs="?", help="include this recipe with its settings, and only its label's records")
    bundle.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="sets", help="as given to `mvforge run`")
    bundle.add_argument("--label", help="as given to `mvforge run`")
    bundle.add_argument("--out", required=True, metavar="FILE", help="the .tar.gz to write")
    bundle.add_argument("--store", help="where results lie: a path or a URL (default $MVFORGE_STORE or ~/.mvforge/store)")
