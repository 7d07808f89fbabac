"""The list of trusted files is complete, and docs/trust.md says what it says."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

from verifier.certificate import TRUSTED
from verifier.trust import PAGE, REPLAY, UNTRUSTED, lines

ROOT = Path(__file__).resolve().parents[2]
KERNEL = ROOT / "tests" / "golden" / "proved" / "fa2_none.tile"

# Text to certificate, in a process of its own; what was loaded on the way is what was run.
PROOF = """
import json, sys, types
if REPLAY_MISSING:
    sys.modules["verifier.refute"] = types.ModuleType("verifier.refute")
from ir.loader import bind, load_spec
from ir.parser import parse
from ir.typing import check
from verifier.certificate import issue
from verifier.prove import prove
text = open(sys.argv[1]).read()
bound = bind(load_spec("attention"), {})
issue(prove(check(parse(text), bound, text), bound, text, rounding=True), text, bound)
ours = [m for n, m in sys.modules.items() if n.split(".")[0] in ("ir", "verifier", "lowering", "synth")]
print(json.dumps([m.__file__ for m in ours if getattr(m, "__file__", None)]))
"""


@cache
def loaded(replay_missing: bool) -> frozenset[str]:
    code = f"REPLAY_MISSING = {replay_missing}\n{PROOF}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(KERNEL)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    files = {Path(f).relative_to(ROOT).as_posix() for f in json.loads(done.stdout)}
    return frozenset(f for f in files if not only_a_docstring(f))


def only_a_docstring(name: str) -> bool:
    return all(isinstance(s, ast.Expr) for s in ast.parse((ROOT / name).read_text()).body)


def test_everything_a_proof_loads_is_accounted_for() -> None:
    assert loaded(replay_missing=False) <= {*TRUSTED, *UNTRUSTED}
    assert set(TRUSTED).isdisjoint(UNTRUSTED)


def test_a_proof_needs_nothing_of_the_search_for_counterexamples() -> None:
    """Without `refute` the interpreter and the evaluator are not even loaded, and the verdict stands."""
    replay = {file for file, reason in UNTRUSTED.items() if reason == REPLAY}
    assert "ir/interpret.py" in replay
    assert loaded(replay_missing=True).isdisjoint(replay | {"verifier/refute.py"})


def test_nothing_is_listed_that_a_proof_does_not_load() -> None:
    grammars = {f for f in TRUSTED if f.endswith(".lark")}
    assert grammars == {f.relative_to(ROOT).as_posix() for f in (ROOT / "ir").glob("*.lark")}
    assert set(TRUSTED) - grammars <= loaded(replay_missing=False)


def test_the_page_is_up_to_date() -> None:
    """Stale when the list of files differs, or its total by more than a hundred lines."""
    text = PAGE.read_text()
    assert re.findall(r"^\| (\S+/\S+) \|", text, re.M) == list(TRUSTED), "run `python -m verifier.trust`"
    stated = re.search(r"^Total: about (\d+) lines in (\d+) files", text, re.M)
    assert stated is not None and int(stated[2]) == len(TRUSTED)
    assert abs(int(stated[1]) - sum(map(lines, TRUSTED))) <= 100, "run `python -m verifier.trust`"
