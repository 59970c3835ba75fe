"""`python -m benchmarks [NAME…] [--json]`: run benchmarks, print them, keep them in benchmarks/results.json."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.figures import markdown_table

NAMES = (
    "start",
    "pages",
    "leaderboard",
    "launch",
    "sft",
    "side_by_side",
    "sampling",
    "novelty",
    "reward",
    "instructgpt",
)
RESULTS = Path(__file__).with_name("results.json")


def main() -> int:
    """Run the chosen benchmarks, all when none is named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all when none is given")
    parser.add_argument("--json", action="store_true", help="print one JSON list and nothing else")
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.names if name not in NAMES]:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    rows = []
    for name in chosen.names or NAMES:
        if not chosen.json:
            print(f"{name} …", file=sys.stderr, flush=True)
        with contextlib.redirect_stdout(sys.stderr):  # trainers print; what is on stdout is ours
            rows += [figure.as_dict() for figure in import_module(f"benchmarks.{name}").measure()]
    kept = {(row["benchmark"], row["figure"]): row for row in _known()}
    kept |= {(row["benchmark"], row["figure"]): row for row in rows}
    RESULTS.write_text(json.dumps(list(kept.values()), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(rows, ensure_ascii=False) if chosen.json else markdown_table(rows))
    return 0


def _known() -> list[dict[str, object]]:
    return json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else []


if __name__ == "__main__":
    sys.exit(main())
