"""How many candidates the gate answers: `python benchmarks/bench_search.py [SPEC key=value ...]` prints a table.

The candidates are kernels that ship with the spec or are composed for it, each with mutants of its own, so that some
are proved and some refuted, as in a search; all at once they go to a pool of 1, 2, ... workers that are ready. A row
tells candidates per second, the same for each worker, and how much more that is than with one worker. The numbers of
workers take turns, and each one's best round counts: other work on the machine can only slow a round down.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from contextlib import ExitStack
from itertools import chain, islice

from ir.loader import bind, load_spec
from ir.spec import Bound
from synth.jobs import Proof, Prove
from synth.propose import NothingToPropose
from synth.propose.embedded import propose
from synth.propose.mutate import mutants
from synth.propose.seeds import seeds
from synth.workers import Pool, open_pool

KERNELS, MUTANTS = 6, 3  # and so many of each kernel
ROUNDS = 2


def candidates(bound: Bound) -> list[Prove]:
    kernels = list(islice(seeds(bound), KERNELS // 2))
    try:
        kernels += islice(propose(bound), KERNELS - len(kernels))
    except NothingToPropose:
        pass  # what ships has to do
    found = chain.from_iterable((kernel, *islice(mutants(kernel), MUTANTS)) for kernel in kernels)
    return [Prove(c.name, c.text) for c in found]


def seconds(pool: Pool, jobs: list[Prove], verdicts: Counter[str]) -> float:
    """Of gating all of them; counts their verdicts."""
    begin = time.perf_counter()
    for _, proof in pool.run(jobs):
        assert isinstance(proof, Proof)
        verdicts[proof.verdict.value if proof.verdict is not None else "no kernel"] += 1
    return time.perf_counter() - begin


def main(spec: str = "attention", *options: str) -> None:
    bound = bind(load_spec(spec), dict(option.split("=") for option in options))
    jobs = candidates(bound)
    cores = os.cpu_count() or 1
    counts = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= cores]
    best: dict[int, float] = {}
    verdicts: Counter[str] = Counter()
    with ExitStack() as stack:
        pools = {n: stack.enter_context(open_pool(bound, n)) for n in counts}
        for n, pool in pools.items():
            seconds(pool, jobs[:1] * n, Counter())  # every worker has proved something
        for _ in range(ROUNDS):
            for n, pool in pools.items():
                verdicts.clear()
                best[n] = min(best.get(n, float("inf")), seconds(pool, jobs, verdicts))
    found = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    load = os.getloadavg()[0]
    print(f"{spec} {' '.join(options)}: {len(jobs)} candidates ({found}); {cores} cores, load {load:.1f} at the end")
    print(f"{'workers':>7}{'candidates/s':>14}{'each worker':>13}{'scaling':>9}")
    for n, took in best.items():
        print(f"{n:7}{len(jobs) / took:14.2f}{len(jobs) / took / n:13.2f}{best[counts[0]] / took:9.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
