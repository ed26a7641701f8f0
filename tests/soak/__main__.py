"""``python -m tests.soak``: see ``--help``. Ends with 1 where something said was not so."""

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.soak.nights import Plan, soak
from tests.soak.troubles import KINDS


def main() -> int:
    words = _parser().parse_args()
    # So that the server ends, too, and the folder is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    stores = ("folder", "bucket") if words.store == "both" else (words.store,)
    seed = int(time.time()) if words.seed is None else words.seed
    without = frozenset(filter(None, words.without.split(",")))
    if words.only is not None:
        without |= KINDS.keys() - set(filter(None, words.only.split(",")))
    if unknown := without - KINDS.keys():
        sys.exit(f"unknown kinds of trouble: {', '.join(sorted(unknown))}")
    lies = 0
    for store in stores:
        print(f"seed {seed}, {words.nights} nights, {words.repositories} repositories, {store}")
        plan = Plan(
            words.nights, words.repositories, seed, store, without, keep_going=words.keep_going
        )
        with tempfile.TemporaryDirectory(prefix="repo-backup-soak-") as folder:
            figures = soak(plan, Path(folder), say=lambda line: print(line, flush=True))
        print(f"\n{store}, seed {seed}\n{figures.table()}\n", flush=True)
        lies += len(figures.lies)
    return 1 if lies else 0


def _parser() -> argparse.ArgumentParser:
    kinds = "\n".join(f"  {name:<12}{words}" for name, words in KINDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"kinds of trouble:\n{kinds}",
    )
    parser.add_argument("--nights", type=int, default=300)
    parser.add_argument("--repositories", type=int, default=50)
    parser.add_argument("--seed", type=int, help="of all chance; by default another each time")
    parser.add_argument("--store", choices=("folder", "bucket", "both"), default="both")
    parser.add_argument("--without", default="", help="kinds of trouble to leave out, by comma")
    parser.add_argument("--only", help="kinds of trouble to have alone, by comma; may be empty")
    parser.add_argument("--keep-going", action="store_true", help="go on after the first lie")
    return parser


if __name__ == "__main__":
    sys.exit(main())
