"""One candidate, one proof: two processes ask the solver the same questions in the same order.

Hash seed, addresses and what the process did before differ between the two; the text of every solver query,
every trace and every residual must not. A verdict at the solver's resource limit would otherwise change from
run to run, and a certificate with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
NAMES = ("proved/fa2_bottom_right", "proved/two_streams", "refuted/accumulator_not_rescaled", "proved/split_in_chunks")
SCRIPT = """
import hashlib, json, sys
from pathlib import Path
from ir.loader import bind, load_spec
from ir.parser import parse
from ir.typing import check
from verifier.prove import prove

def proved(path):
    text = Path(path).read_text()
    _, name, *options = text.partition("\\n")[0].removeprefix("#").split()
    bound = bind(load_spec(name), dict(o.split("=") for o in options))
    return prove(check(parse(text), bound, text), bound, text)

names, others = json.loads(sys.argv[1])
shift = [object() for _ in range(len(others) * 10007)]  # other addresses, so other orders of sets
for other in others:
    proved(other)
out = {}
for name in names:
    for r in proved(name).results:
        digests = {e.name: hashlib.sha256(e.body.encode()).hexdigest() for e in r.evidence}
        out[f"{name} {r.id}"] = [r.verdict.value, r.residual, str(r.counterexample), digests]
print(json.dumps(out))
"""


def outcome(seed: str, before: tuple[str, ...]) -> dict[str, object]:
    paths = [[str(GOLDEN / f"{n}.tile") for n in some] for some in (NAMES, before)]
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, json.dumps(paths)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=True)
    return dict(json.loads(done.stdout))


@pytest.mark.timeout(300)
def test_hash_seed_addresses_and_earlier_proofs_change_nothing() -> None:
    first = outcome("0", ())
    assert first == outcome("12345", ("proved/lazy_rescale",))
    queries = [d for v in first.values() if isinstance(v, list) for d in v[3]]
    assert len(queries) > 100  # the two proved kernels; otherwise there was nothing to compare
