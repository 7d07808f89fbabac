"""`synth check`: what follows from spec and candidate is confirmed, and a forgery is refused by the place it is at."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import shipped

from synth.cli import main
from verifier.certificate import Certificate, digest
from verifier.second_opinion import Answer, NoQuery, NoSolver, require_query, solver, z3_answer

Body = dict[str, Any]
SAT = "(set-logic ALL)\n(declare-fun x () Int)\n(assert (>= x 0))\n(check-sat)\n"


@pytest.fixture(scope="module")
def honest() -> Body:
    """A small certificate with every kind of version: lowered, with one for even sizes inside."""
    body = Certificate.load(shipped.square()[0]).body
    assert {v["name"] for v in body["lowered"]["versions"]} >= {"pointers"} and body["lowered"]["narrower"]
    return body


def saved(body: Body, path: Path) -> Path:
    """Written as a forger would: under an id that fits."""
    Certificate(body).save(path)
    return path


def checked(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, Any]]:
    code = main(["check", str(path), "--json", *options])
    return code, json.loads(capsys.readouterr().out)


def refusals(answer: dict[str, Any]) -> dict[str, str]:
    """What is said of each refused section."""
    return {r["section"]: " ".join((r["text"], *r["details"])) for r in answer["rows"] if r["standing"] == "REFUSED"}


def test_an_honest_certificate_is_derived_again_whole(
    honest: Body, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, answer = checked(saved(honest, tmp_path / "one.json"), capsys, "--strict")
    assert (code, answer["verdict"], answer["complete"]) == (0, "checked", True)
    assert answer["id"] == Certificate(honest).id
    rows = {r["section"]: r["standing"] for r in answer["rows"] if not r["inside"]}
    assert rows.pop("resources") == "evidence"
    assert rows.pop("queries") == "confirmed"  # by cvc5
    assert set(rows.values()) == {"re-derived"}
    assert rows.keys() >= {"claim", "assumptions", "evidence", "rounding", "lowered.versions", "lowered.plan"}
    inside = [r for r in answer["rows"] if r["inside"]]
    assert {r["inside"] for r in inside} == set(honest["lowered"]["narrower"])
    assert {"claim", "queries"} <= {r["section"] for r in inside}


# ---- forgeries: the id is computed anew each time ----------------------------------------------------------


def _weaker_claim(body: Body) -> None:
    body["claim"][6]["statement"] = body["claim"][6]["statement"].replace("equals", "resembles")


def _assumption_dropped(body: Body) -> None:
    body["assumptions"] = [a for a in body["assumptions"] if a["id"] != "layout"]


def _assumption_answered_by_another(body: Body) -> None:
    body["assumptions"][0]["discharged_by"] = "nobody"


def _bound_made_smaller(body: Body) -> None:
    body["rounding"]["bounds"]["Y"]["text"][-1] = "0"


def _terms_made_smaller(body: Body) -> None:
    body["rounding"]["bounds"]["Y"]["terms"] = ["number", "0"]


def _narrow_integers(body: Body) -> None:
    body["widths"] = dict.fromkeys(body["widths"], 32)


def _fact_changed(body: Body) -> None:
    body["facts"]["witness shape"] = "R = 7"


def _requirement_dropped(body: Body) -> None:
    body["requires"] = ["R % 2 == 0"]


def _satisfiable_query(body: Body) -> None:
    item = next(i for row in body["evidence"] for i in row["items"] if i["kind"] == "smt")
    item["body"] = SAT


def _query_dropped(body: Body) -> None:
    body["evidence"][0]["items"] = [i for i in body["evidence"][0]["items"] if i["kind"] != "smt"][:0]


def _other_candidate(body: Body) -> None:
    """A wrong kernel under a right kernel's proof."""
    text = body["subject"]["candidate"]["text"].replace("x * x", "x + x")
    body["subject"]["candidate"] = {"text": text, "sha256": digest(text)}


def _wrong_hash(body: Body) -> None:
    body["subject"]["spec"]["sha256"] = digest("")


def _other_range(body: Body) -> None:
    """A spec that admits more than was proved."""
    text = body["subject"]["spec"]["text"].replace("abs_max = 1e4", "abs_max = 1e30")
    body["subject"]["spec"] |= {"text": text, "sha256": digest(text)}


def _other_module(body: Body) -> None:
    version = body["lowered"]["versions"][-1]
    version["source"] = version["source"].replace("x * x", "x + x")
    version["source_sha256"] = digest(version["source"])


def _condition_dropped(body: Body) -> None:
    """What is proved for even sizes only, would run at all of them."""
    version = next(v for v in body["lowered"]["versions"] if v["certificate"])
    version["when"] = [c for c in version["when"] if c[0] != "size"]


def _unmet_launch(body: Body) -> None:
    body["lowered"]["versions"][-1]["launches"][0]["grid"] = [1]


def _check_dropped(body: Body) -> None:
    body["lowered"]["plan"]["max_stride"] = 2**62


def _stray_section(body: Body) -> None:
    body["endorsement"] = "certified by a well-known laboratory"


def _section_missing(body: Body) -> None:
    del body["assumptions"]


def _other_gradient(body: Body) -> None:
    body["lowered"]["contracts"]["Y"] = "X[i0, i1]"


def _inner_requirement_dropped(body: Body) -> None:
    """The certificate for even sizes, said to be for all."""
    ((name, inner),) = body["lowered"]["narrower"].items()
    inner["requires"] = []
    again = Certificate(inner).id
    body["lowered"]["narrower"] = {again: inner}
    for version in body["lowered"]["versions"]:
        version["certificate"] = again if version["certificate"] == name else ""


FORGERIES: list[tuple[Callable[[Body], None], str, str]] = [
    (_weaker_claim, "claim", "claim[E1].statement"),
    (_assumption_dropped, "assumptions", "assumptions[layout]: the certificate lacks it"),
    (_assumption_answered_by_another, "assumptions", "assumptions[input-range].discharged_by"),
    (_bound_made_smaller, "rounding", "rounding.bounds.Y.text"),
    (_terms_made_smaller, "rounding", "rounding.bounds.Y.terms"),
    (_narrow_integers, "widths", "widths.elementwise"),
    (_fact_changed, "facts", "facts.witness shape"),
    (_requirement_dropped, "requires", "R % 2 == 0"),
    (_satisfiable_query, "evidence", "evidence[B1].items["),
    (_query_dropped, "evidence", "evidence[B1].items["),
    (_other_candidate, "claim", "E1 refuted"),
    (_wrong_hash, "subject", "subject.spec.sha256"),
    (_other_range, "claim", "S1"),
    (_other_module, "lowered.versions", "lowered.versions[pointers].source, line"),
    (_condition_dropped, "lowered.versions", ".when"),
    (_unmet_launch, "lowered.versions", "launches"),
    (_check_dropped, "lowered.plan", "lowered.plan.max_stride"),
    (_stray_section, "endorsement", "no certificate has a section of that name"),
    (_section_missing, "assumptions", "the certificate lacks it"),
    (_other_gradient, "lowered.contracts", "lowered.contracts.Y"),
    (_inner_requirement_dropped, "requires", "R % 16 == 0"),
]


@pytest.mark.parametrize(("forge", "section", "said"), FORGERIES, ids=[f[0].__name__[1:] for f in FORGERIES])
def test_a_forgery_is_refused_by_its_place(
    forge: Callable[[Body], None], section: str, said: str,
    honest: Body, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    forged = deepcopy(honest)
    forge(forged)
    assert forged != honest
    code, answer = checked(saved(forged, tmp_path / "forged.json"), capsys, "--second-solver", "none")
    assert (code, answer["verdict"]) == (1, "refused")
    found = refusals(answer)
    assert said in found[section], found


def test_a_satisfiable_query_is_named_by_the_second_solver(
    honest: Body, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = deepcopy(honest)
    _satisfiable_query(forged)
    code, answer = checked(saved(forged, tmp_path / "forged.json"), capsys)
    assert code == 1 and "SAT to B1-" in refusals(answer)["queries"]


# ---- another release's certificate -----------------------------------------------------------------------


def _of_another_release(body: Body) -> Body:
    """As if another file of the prover had been installed where it was made."""
    made = deepcopy(body)
    made["trusted"][0]["sha256"] = digest("what that file was then")
    return made


def test_another_release_is_said_and_its_queries_compared_by_what_they_assert(
    honest: Body, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = _of_another_release(honest)
    item = _first_query(made)
    item["body"] = item["body"].replace("; expected: unsat", "; printed by another Z3\n")
    code, answer = checked(saved(made, tmp_path / "old.json"), capsys, "--second-solver", "none")
    rows = {r["section"]: r for r in answer["rows"] if not r["inside"]}
    assert (code, rows["trusted"]["standing"], rows["evidence"]["standing"]) == (0, "evidence", "re-derived")
    assert "1 other trusted files, ir/ast.py first" in rows["trusted"]["text"]


def test_a_query_of_another_release_that_is_not_asked_here_is_left_open_and_asked(
    honest: Body, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = _of_another_release(honest)
    item = _first_query(made)
    item["body"] = SAT.replace("(>= x 0)", "(and (> x 0) (< x 0))")
    path = saved(made, tmp_path / "old.json")
    code, answer = checked(path, capsys, "--second-solver", "none", "--strict")
    assert (code, answer["verdict"], answer["complete"]) == (2, "checked", False)
    (row,) = [r for r in answer["rows"] if r["section"] == "evidence" and not r["inside"]]
    assert row["standing"] == "not confirmed" and item["name"] in row["details"][0]

    item["body"] = SAT
    code, answer = checked(saved(made, path), capsys, "--second-solver", "none")
    assert code == 1 and f"SAT to {item['name']}" in refusals(answer)["queries"]  # Z3's own word, without a second

    made["claim"][6]["statement"] = "all is well"
    code, answer = checked(saved(made, path), capsys, "--second-solver", "none")
    assert code == 1 and "check it with that release" in refusals(answer)["claim"]


def _first_query(body: Body) -> dict[str, str]:
    return next(i for row in body["evidence"] for i in row["items"] if i["kind"] == "smt")


# ---- the second solver -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (SAT, Answer.SAT),
        (SAT.replace("(>= x 0)", "(= 1 (* 2 x))"), Answer.UNSAT),
        # a remainder of an unbounded size, and a quantifier: not by cvc5's first way of looking
        ("(set-logic ALL)(declare-fun M () Int)(declare-fun t () Int)(declare-fun i () Int)(assert (= (mod M 32) 0))"
         "(assert (< (* 32 t) M))(assert (<= M (+ (* 32 t) i)))(assert (<= i 31))(check-sat)", Answer.UNSAT),
        # a product of unknowns: in a tile of 32 packed rows, h mod G + G m with m < M is a row below M G
        ("(set-logic ALL)(declare-fun h () Int)(declare-fun G () Int)(declare-fun m () Int)(declare-fun M () Int)"
         "(assert (>= (+ (- 1) G) 0))(assert (>= (+ (- 1) M (* (- 1) m)) 0))"
         "(assert (>= (+ (* 32 (div (+ (mod h G) (* G m)) 32)) (* (- 1) (* M G))) 0))(check-sat)", Answer.UNSAT),
        (SAT.replace("x 0", "(f x) 0"), Answer.REFUSED),
    ],
)  # fmt: skip
def test_cvc5_answers(body: str, answer: Answer) -> None:
    assert solver("cvc5", 8.0)[1](body) is answer


@pytest.mark.parametrize(
    "body",
    [
        "",
        "(check-sat)(check-sat)",
        SAT.replace("(check-sat)", "(reset)(assert false)(check-sat)"),
        '(set-option :regular-output-channel "kernel.json")' + SAT,
        '(echo "unsat")',
        SAT.replace("(check-sat)", ""),
        SAT + ")",
        SAT + "|",
    ],
)
def test_only_a_query_is_put_to_a_solver(body: str) -> None:
    with pytest.raises(NoQuery):
        require_query(body)
    for ask in (z3_answer, solver("cvc5")[1]):
        with pytest.raises(NoQuery):
            ask(body)


def test_any_program_that_reads_a_script_can_be_the_second_solver(tmp_path: Path) -> None:
    program = tmp_path / "prover"
    answer = "print('sat' if 'x' in open(sys.argv[-1]).read() else 'unsat')"
    program.write_text(f"#!{sys.executable}\nimport sys\n{answer}\n")
    program.chmod(0o755)
    name, ask = solver(f"{program} --quiet")
    assert name == f"{program} --quiet"
    assert ask(SAT) is Answer.SAT
    assert ask("(assert false)(check-sat)") is Answer.UNSAT
    with pytest.raises(NoSolver, match="no solver"):
        solver(str(tmp_path / "not-there"))


# ---- the command -------------------------------------------------------------------------------------------


def test_a_person_sees_rows_and_a_verdict_for_every_file(
    honest: Body, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "certificates").mkdir()
    saved(honest, tmp_path / "certificates" / "honest.json")
    damaged = tmp_path / "certificates" / "damaged.json"
    damaged.write_text((tmp_path / "certificates" / "honest.json").read_text().replace("finite", "infinite", 1))
    (tmp_path / "certificates" / "other.json").write_text('{"format": 3, "format": 3}')
    assert main(["check", str(tmp_path), "--second-solver", "none"]) == 1  # the gravest of a run folder's three
    said = capsys.readouterr().out
    assert "damaged.json: REFUSED: id" in said
    assert "honest.json: checked: it says what follows from its spec and candidate" in said
    assert "left unconfirmed: queries, for some sizes: queries" in said
    assert "no certificate" in said and "the same key twice" in said
    assert "3 certificates: 1 checked, 1 refused, 1 unreadable" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such.json"], "cannot be read"),
        (["."], "holds no certificates"),
        (["no-such.json", "--second-solver", "no-such-solver"], "name a program on your PATH"),
        ([], "CERT"),
    ],
)
def test_what_cannot_be_checked_exits_64(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check", *arguments]) == 64
    output = capsys.readouterr()
    assert said in output.out + output.err


def test_broken_kernels_are_put_to_the_gate_again(
    honest: Body, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = deepcopy(honest)
    del body["lowered"]
    text = honest["subject"]["candidate"]["text"].replace("x * x", "x + x")
    body["controls"] = [{"mutant": "plus", "verdict": "refuted", "broken": ["E1"], "text": text}]
    path = saved(body, tmp_path / "one.json")
    code, answer = checked(path, capsys, "--controls", "--second-solver", "none")
    (row,) = [r for r in answer["rows"] if r["section"] == "controls"]
    assert (code, row["standing"]) == (0, "confirmed") and "1 of 1" in row["text"]
    body["controls"][0]["text"] = honest["subject"]["candidate"]["text"]  # nothing is broken in it
    code, answer = checked(saved(body, path), capsys, "--controls", "--second-solver", "none")
    assert code == 1 and "plus: the certificate says refuted ['E1'], the gate proved []" in refusals(answer)["controls"]
