"""Saved inputs in a proof: their definition is all that is known of them, where it is defined."""

from __future__ import annotations

from ir.loader import bind, load_spec, parse_spec
from ir.parser import parse
from ir.typing import check
from verifier.certificate import issue
from verifier.prove import prove
from verifier.verdict import Report, Verdict

SPEC = """
name = "reciprocal"
[dims]
M = { min = 1, max = 1024 }
[inputs]
X = { shape = ["M"], dtype = "f32", abs_max = 10 }
R = { shape = ["M"], dtype = "f32", saved = true, abs_max = 100 }
[outputs]
Y = { shape = ["M"], dtype = "f32" }
[formula]
empty_row = "undefined"
define = '''
R[i] = 1.0 / X[i]
Y[i] = 1.0
'''
[layout]
max_stride = 1024
"""


def report_of(value: str) -> Report:
    text = f"kernel k(i < M):\n    x = load(X[i])\n    r = load(R[i])\n    store(Y[i], {value})\n"
    bound = bind(parse_spec(SPEC))
    return prove(check(parse(text), bound, text), bound, text)


def test_where_the_definition_is_undefined_nothing_is_known_of_what_was_saved() -> None:
    report = report_of("x * r")
    assert report.result("D1").verdict is not Verdict.PROVED, "at x = 0 the saved reciprocal may be anything"
    guarded = report_of("where(x == 0.0, 1.0, x * r)")
    assert guarded.result("D1").verdict is guarded.result("E1").verdict is Verdict.PROVED


def test_the_definition_is_used_and_nothing_else() -> None:
    assert report_of("where(x == 0.0, 1.0, x * r + r - r)").result("E1").verdict is Verdict.PROVED
    assert report_of("where(x == 0.0, 1.0, r)").result("E1").verdict is Verdict.REFUTED


def test_the_ledger_names_the_contract_of_every_saved_input() -> None:
    spec = load_spec("attention_bwd")
    file = spec.path.removesuffix(".toml") + "/fused_per_head_none.tile"
    with open(file, encoding="utf-8") as stream:
        text = stream.read()
    bound = bind(spec)
    certificate = issue(prove(check(parse(text), bound, text), bound, text), text, bound)
    ledger = {a["id"] for a in certificate.body["assumptions"]}
    assert {"saved-O", "saved-LSE"} <= ledger and "saved-Q" not in ledger
