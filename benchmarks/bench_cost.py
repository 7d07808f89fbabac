"""Predicted against measured times of a run's kernels: `python benchmarks/bench_cost.py [RUN] [DATABASE]`.

RUN is a run's name, "last" by default. For each device and shape: how many kernels were timed, Kendall's tau between
predicted and measured times, and measured over predicted. Needs a run on a GPU; times of the CPU executor do not count.
"""

from __future__ import annotations

import sys

from synth.bench.rank import ranks
from synth.state.store import DEFAULT, StateError, Store


def main(run: str = "last", database: str = DEFAULT) -> int:
    try:
        with Store.open(database, create=False) as store:
            found = ranks(store.load(run))
    except StateError as error:
        print(error, file=sys.stderr)
        return 64
    if not found:
        print("nothing of this run was timed on a GPU the cost model knows; run it on one first")
        return 2
    print(f"{'device':24} {'shape':20} {'kernels':>7} {'tau':>6} {'measured/predicted':>19}")
    for r in found:
        order = "-" if r.tau is None else f"{r.tau:.2f}"
        print(f"{r.device:24} {r.shape:20} {len(r.pairs):7} {order:>6} {r.ratio:19.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
