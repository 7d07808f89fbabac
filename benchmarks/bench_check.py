"""What a second solver makes of the gate's queries: `python benchmarks/bench_check.py [NAME ...]`, a line per kernel.

NAME is a kernel's file, or a spec whose kernels are all meant; without one, every kernel that ships with a spec. Each
is proved, and each of its solver queries put to cvc5 as `synth check` does it: how many it confirms, in how many
seconds of processor time, and which it does not. Exit code 1 when it contradicts one. Needs `pip install cvc5`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ir.loader import bind, load_spec, packaged_specs
from ir.parser import parse
from ir.typing import check
from verifier.prove import prove
from verifier.second_opinion import Answer, solver
from verifier.verdict import Verdict


def files(names: list[str]) -> list[Path]:
    wanted = [Path(name) for name in names] or sorted(p.with_suffix("") for p in packaged_specs().glob("*.toml"))
    folders = [p if p.suffix == ".tile" else packaged_specs() / p.name for p in wanted]
    return [f for p in folders for f in ([p] if p.suffix == ".tile" else sorted(p.glob("*.tile")))]


def main(names: list[str]) -> int:
    name, ask = solver("cvc5")
    told: dict[Answer, int] = dict.fromkeys(Answer, 0)
    total = 0.0
    for path in files(names):
        text = path.read_text()
        _, spec, *options = text.partition("\n")[0].removeprefix("#").split()
        bound = bind(load_spec(spec), dict(option.split("=") for option in options))
        report = prove(check(parse(text), bound), bound, text)
        if report.verdict is not Verdict.PROVED:
            print(f"{path.stem:40} {report.verdict.value}")
            continue
        begun = time.process_time()
        items = [e for r in report.results for e in r.evidence if e.kind == "smt"]
        answers = {e.name: ask(e.body) for e in items}
        seconds = time.process_time() - begun
        for answer in answers.values():
            told[answer] += 1
        left = " ".join(f"{n}:{a.value}" for n, a in answers.items() if a is not Answer.UNSAT)
        total += seconds
        print(f"{path.parent.name}/{path.stem:40} {len(items):4} queries {seconds:6.1f} s  {left}", flush=True)
    counts = ", ".join(f"{n} {answer.value}" for answer, n in told.items() if n)
    print(f"{name}: {counts} in {total:.0f} s")
    return int(told[Answer.SAT] > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
