"""Runs for the report's tests: a real one of rmsnorm, proved and refuted for real, and one full of hostile texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ir.loader import bind, load_spec
from lowering.versions import Version
from synth import runfolder
from synth.certify import certify
from synth.events import (
    STANDARD,
    Benchmarked,
    Finished,
    HeldOut,
    Judged,
    Lowered,
    Measurement,
    PeersMeasured,
    Proposed,
    Spent,
    Started,
)
from synth.jobs import Built, Checked, Prove, Timed, prove
from synth.propose.mutate import mutants
from synth.propose.seeds import seeds
from synth.report.view import ExchangeView, KernelView, RunView
from synth.search.tried import Tried
from synth.state.run import Run
from synth.state.store import Store
from verifier.certificate import digest

HOSTILE = "</script></style><img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"
SIZES = (("M", 4096),)
SLIPS = ("mask-dropped", "mask-one-too-far", "last-row-unwritten", "no-division", "one-block-less")


EMITTED = Version("pointers", "import triton  # kept", digest("import triton  # kept"), [])


def measured(name: str, seconds: float) -> Measurement:
    return Measurement(name, "rows", SIZES, seconds, 1e-3 / seconds, 0.25)


def run_folder(root: Path) -> Path:
    """A run of rmsnorm: one kernel proved and timed, its broken forms refuted or not, by the real gate."""
    bound = bind(load_spec("rmsnorm"), {})
    folder = runfolder.create(root, "rmsnorm")
    results = runfolder.Results(folder)
    results.note(Started("rmsnorm", bound.settings, "sm_90", "CPU", folder))
    first = next(iter(seeds(bound)))
    certificate = None
    for candidate in (first, *(m for m in mutants(first) if m.name.rpartition("~")[2] in SLIPS)):
        found = certify(candidate.text, bound, f"{candidate.name}.tile")
        results.note(Proposed(candidate))
        results.note(Judged(candidate, found.report, found.certificate))
        if found.certificate:
            certificate = found.certificate
            results.certificate(candidate.name, certificate)
    assert certificate is not None
    resources = {"kernel": "rmsnorm", "registers": 40, "spills": 0, "shared": 2048, "occupancy": 0.5}
    results.triton(first.name, {"versions": [EMITTED.to_json()]}, "sm_90")
    results.note(Lowered(first, "sm_90", (resources,), certificate))
    results.note(PeersMeasured("CPU", "a yardstick", (measured(STANDARD, 2e-3),)))
    results.note(Benchmarked(first, (measured("certified", 1e-3),), "CPU"))
    results.note(Finished("finished", 1, 0, 0, 3.0, folder, Spent()))
    return folder


def kept_run(store: Store, out: Path) -> Run:
    """A run in the database: a kernel and a rewrite of it, both proved, one refuted, what a model was asked."""
    bound = bind(load_spec("rmsnorm"), {})
    run = store.begin(bound, {"seed": 7, "target": "sm_90", "arm": "guided", "model": {"model": "a-model"}}, out)
    first = next(iter(seeds(bound)))
    broken = next(m for m in mutants(first) if m.name.endswith("mask-dropped"))
    proof = prove(Prove(first.name, first.text), bound)
    assert proof.certificate is not None
    lowered = proof.certificate.with_section("lowered", {"versions": [EMITTED.to_json()]})
    times = Timed((measured("certified", 1e-3),), "CPU", "a yardstick")
    done = Tried(first, "one", proof, Built(lowered), Checked(lowered, 3, 1e-7), long=times)
    run.put(done, 0)
    child = replace(first, name="child", parents=(first.name,), source="rewrite", text=first.text + "# rewritten\n")
    run.put(Tried(child, "two", prove(Prove("child", child.text), bound)), 1)
    run.put(Tried(replace(broken, expected=()), "three", prove(Prove(broken.name, broken.text), bound)), 1)
    run.note(PeersMeasured("CPU", "a yardstick", (measured(STANDARD, 2e-3),)))
    held = replace(measured(STANDARD, 1e-3), shape="ragged")
    usage = {"input": 100, "cache_read": 900, "cache_write": 0, "output": 50}
    spent = {"usage": usage, "usd": 0.02, "seconds": 1.5}
    run.note(HeldOut(first, (held,), (replace(held, seconds=2e-3),), 2.0, 2.0, True))
    said = {"request": {"model": "a-model"}, "reply": {"stop_reason": "tool_use"}, "ended": ""}
    run.record("exchange", "1 0 0", {**said, **spent, "attempts": [{**spent, "error": "overloaded"}]})
    run.finish("finished", 12.0)
    return store.load(run.id)


def hostile(real: RunView) -> RunView:
    """The same run with every text that someone else writes made an attack."""
    first = real.kernels[0]
    attack = KernelView(
        name=f"evil {HOSTILE}", text=f"# {HOSTILE}\n", source=HOSTILE, note=HOSTILE, parents=(first.name, HOSTILE),
        choices=((HOSTILE, HOSTILE),), verdict="no kernel", problem=HOSTILE, failed=HOSTILE, triton=HOSTILE,
        twin=HOSTILE, damage=(HOSTILE,), measurements=(replace(measured("m", 3e-3), shape=HOSTILE),),
        controls=({"mutant": HOSTILE, "verdict": HOSTILE, "broken": [HOSTILE]},),
    )  # fmt: skip
    exchange = ExchangeView(HOSTILE, HOSTILE, 10, 5, 3, 0.01, 1.0, HOSTILE)
    return replace(
        real, run=HOSTILE, kernels=(*real.kernels, attack), exchanges=(exchange,), gaps=(HOSTILE,), roofline=HOSTILE,
        proposer=HOSTILE, device=HOSTILE,
    )  # fmt: skip


def child(of: KernelView, name: str, seconds: float) -> KernelView:
    """A faster or slower descendant."""
    return replace(of, name=name, parents=(of.name,), source="rewrite", measurements=(measured(name, seconds),))
