"""The command: `synth bench CERT...`, also `python -m synth.bench CERT...` where little is installed.

Exit codes: 0 done and every certified kernel right; 1 one was wrong; 3 the budget ran out before the grid (resume it);
4 no GPU here; 64 a usage error or a file that cannot be read; 130 interrupted (what was measured is kept).
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

WRONG, UNFINISHED, NO_GPU, USAGE, INTERRUPTED = 1, 3, 4, 64, 130
RESULTS = Path("benchmarks/results")
EXAMPLES = """examples:
  synth bench benchmarks/certificates                       the whole grid, most telling rows first
  synth bench forward.cert.json backward.cert.json --budget-minutes 9
  synth bench certificates --only '*causal = bottom_right*16k*' --json
  synth bench certificates --dry-run                        rows, contenders, work; runs nothing
  synth bench certificates --versions                       every version of each kernel, not only the one chosen
  synth bench certificates --resume benchmarks/results/X.json
  synth bench table benchmarks/results/X.json               README's table from results; without a file: newest
  synth bench plot benchmarks/results/X.json
  synth bench rank benchmarks/results/X.json --certificates benchmarks/certificates   predicted against measured
  synth bench kernel.cert.json --device cpu                 without a GPU: tries everything, figures mean little
"""


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="synth bench",
        description="Time certified kernels against PyTorch's own for the same computation; every output is checked.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("certificates", nargs="+", type=Path, metavar="CERT", help="a certificate, or a folder of them")
    found.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="where to run (default: cuda)")
    found.add_argument("--only", metavar="GLOB", help="rows whose title matches: SPEC (SETTINGS), SHAPE")
    found.add_argument("--versions", action="store_true", help="also time every version that a certificate holds")
    found.add_argument("--budget-minutes", type=float, metavar="N", help="stop starting rows when these are spent")
    found.add_argument("--seconds", type=float, default=0.3, help="of runs a contender and row (default: 0.3)")
    found.add_argument("--seed", type=int, default=0, help="of data and order")
    found.add_argument("--out", type=Path, metavar="FILE", help=f"results (default: {RESULTS}/gpu-DEVICE-TIME.json)")
    found.add_argument("--resume", type=Path, metavar="FILE", help="go on with a run that was cut short")
    found.add_argument("--dry-run", action="store_true", help="print what would run, and run nothing")
    found.add_argument("--json", action="store_true", help="results, or the plan, on standard output as JSON")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["rank"]:
        return _ranked(words[1:])
    if words[:1] in (["table"], ["plot"]):
        return _shown(words[0], words[1:])
    try:
        options = parser().parse_args(words)
    except SystemExit as stop:
        return USAGE if stop.code else 0
    return _bench(options, words)


def _complain(message: str, code: int = USAGE) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


def _bench(options: argparse.Namespace, words: list[str]) -> int:
    import torch

    from lowering.assumptions import LaunchError
    from synth.bench.suite import grid, results, run
    from synth.bench.suite.machine import machine
    from synth.bench.suite.subject import read

    try:
        groups = read(options.certificates)
        before = None if options.resume is None else results.read(options.resume)
    except (LaunchError, results.NotResults) as error:
        return _complain(str(error))
    items = [i for i in grid.plan(groups) if options.only is None or fnmatch.fnmatchcase(i.title, options.only)]
    if not items:
        return _complain(f"no row's title matches {options.only!r}; --dry-run lists them" if options.only else
                         "no shape fits these certificates; add [[bench.heldout]] to their specs")  # fmt: skip
    device = torch.device(options.device)
    out = options.resume or options.out or RESULTS / f"{_file_name(device)}.json"
    budget = None if options.budget_minutes is None else 60 * options.budget_minutes
    settings = run.Options(device, out, options.seed, options.seconds, budget, tuple(words), options.versions)
    if options.dry_run:
        return _planned(items, settings, options.json)
    if device.type == "cuda" and not torch.cuda.is_available():
        return _complain(
            "no GPU here, and a benchmark on a CPU says nothing of one; --dry-run shows what would run, --device cpu"
            " tries everything at small shapes", NO_GPU,
        )  # fmt: skip
    if device.type == "cpu":
        items = run.small(items)
    if before is not None and (other := results.differs(before, machine(device))):
        return _complain(f"{options.resume}: was measured on another machine ({other}); start a new file")
    try:
        body = run.run(items, settings, lambda line: print(line, file=sys.stderr, flush=True), before)
    except KeyboardInterrupt:
        return _complain(f"not every row was measured; synth bench ... --resume {out} goes on", INTERRUPTED)
    return _reported(body, out, options.json)


def _planned(items: list[Any], settings: Any, as_json: bool) -> int:
    from synth.bench.suite.dry import planned

    rows = planned(items, settings)
    if as_json:
        print(json.dumps({"rows": rows, "seconds": sum(r["seconds"] for r in rows)}, indent=1))
        return 0
    for row in rows:
        print(f"{row['title']}\n    {row['flops'] / 1e9:.0f} GFLOP, {row['bytes'] / 1e6:.0f} MB, "
              f"about {row['seconds']:.0f} s: {', '.join(row['contenders'])}")  # fmt: skip
    print(f"{len(rows)} rows, predicted to take about {sum(r['seconds'] for r in rows) / 60:.0f} minutes")
    return 0


def _reported(body: dict[str, Any], out: Path, as_json: bool) -> int:
    from synth.bench.suite import plot, table

    pictures = plot.draw(body, out.parent / out.stem)
    if as_json:
        print(json.dumps(body, indent=1))
    else:
        print(table.text(body))
        print(f"results: {out}" + (f"; {len(pictures)} plots in {out.parent / out.stem}" if pictures else ""))
    ours = [c for row in body["rows"] for c in row["contenders"] if c["kind"] == "certified"]
    if any(c["status"] == "wrong" for c in ours):
        return _complain("a certified kernel gave a wrong result; its rows say where", WRONG)
    return 0 if body["complete"] else UNFINISHED


def _shown(what: str, words: list[str]) -> int:
    from synth.bench.suite import plot, results, table

    found = argparse.ArgumentParser(prog=f"synth bench {what}")
    found.add_argument("results", nargs="?", type=Path, help=f"default: the newest in {RESULTS} measured on a GPU")
    if what == "table":
        found.add_argument("--page", type=Path, default=Path("README.md"), help="the page with the markers")
    try:
        options = found.parse_args(words)
        path = options.results or table.latest(RESULTS)
        if what == "table":
            changed = table.update(options.page, path)
            print(f"{options.page}: {'the table was made anew' if changed else 'the table is up to date'}")
        elif path is None:
            return _complain(f"no results from a GPU in {RESULTS}; make bench-gpu makes some")
        else:
            pictures = plot.draw(results.read(path), path.parent / path.stem)
            print("\n".join(map(str, pictures)) or "no plots: no row has a time, or matplotlib is not installed")
    except (results.NotResults, OSError) as error:
        return _complain(str(error))
    except SystemExit as stop:
        return USAGE if stop.code else 0
    return 0


def _ranked(words: list[str]) -> int:
    found = argparse.ArgumentParser(prog="synth bench rank", description="Predicted against measured times.")
    found.add_argument("results", nargs="+", type=Path)
    found.add_argument(
        "--certificates", required=True, nargs="+", type=Path, metavar="CERT", help="those timed, or their folder"
    )
    try:
        options = found.parse_args(words)
    except SystemExit as stop:
        return USAGE if stop.code else 0
    from lowering.assumptions import LaunchError
    from synth.bench.suite import results
    from synth.bench.suite.subject import files

    try:
        from synth.bench.rank import of_results, report
        from verifier.certificate import Certificate, CertificateError
    except ImportError as error:
        return _complain(f"predicting reads kernels, which needs {error.name}: do it where the project is installed")
    try:
        certificates = {c.id: c for c in map(Certificate.load, files(options.certificates))}
        told = report(of_results([results.read(path) for path in options.results], certificates))
    except (results.NotResults, LaunchError, CertificateError) as error:
        return _complain(str(error))
    if not told:
        return _complain("the results hold no time, of a GPU the cost model knows, of a kernel that is certified here")
    print(told)
    return 0


def _file_name(device: Any) -> str:
    import torch

    name = torch.cuda.get_device_name() if device.type == "cuda" and torch.cuda.is_available() else "CPU"
    words = "-".join("".join(c if c.isalnum() else " " for c in name).split())
    return f"{'gpu' if name != 'CPU' else 'bench'}-{words}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
