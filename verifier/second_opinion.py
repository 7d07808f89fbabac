"""A second solver's answer to the queries of a certificate.

Each query is a self-contained SMT-LIB 2 script that Z3 answered `unsat`. Here it is put to cvc5, or to any program that
reads such a script from a file: code with which Z3 shares nothing. `sat` contradicts the certificate; no answer
within the limit says nothing. A script may come from anywhere, so before a solver sees it, it must be what a query
is made of and nothing else: declarations of constants and functions, assertions, and one question at the end.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from enum import Enum
from itertools import combinations_with_replacement
from typing import Any

import z3

from verifier.smt import solver_in

MOST = 30  # facts that are multiplied with each other
SECONDS = 10.0  # for one query, unless told otherwise; nearly all take milliseconds
PARTS = frozenset({"set-logic", "set-info", "declare-fun", "assert"})
# Ways for cvc5 to look: its own, two for remainders of unbounded sizes, for quantifiers, for products of unknowns.
PRODUCTS = {"produce-assertions": "true"}
STRATEGIES: tuple[dict[str, str], ...] = (
    {}, {"decision": "internal"}, {"use-soi": "true"}, {"full-saturate-quant": "true"}, PRODUCTS,
)  # fmt: skip
_TOKEN = re.compile(r'"(?:[^"]|"")*"|\|[^|]*\||;[^\n]*|[()]|[^\s()|";]+')


class Answer(Enum):
    UNSAT = "unsat"  # as the certificate says
    SAT = "sat"  # the certificate is wrong, or a solver is
    UNKNOWN = "unknown"  # no answer within the limit, or one of the solver's own limits
    REFUSED = "refused"  # the solver does not take the script


Solver = Callable[[str], Answer]


class NoSolver(Exception):
    """The solver that was asked for is not there; the message says what to do."""


class NoQuery(Exception):
    """A script holds more than a query does, or less."""


def require_query(body: str) -> None:
    """Raises NoQuery unless a script is declarations, assertions and one `(check-sat)` at the end."""
    if _TOKEN.sub("", body).strip():
        raise NoQuery("its quotes do not match")
    commands, depth, opened = [], 0, False
    for token in _TOKEN.findall(body):
        if token.startswith(";"):
            continue
        if opened:
            commands.append(token)
        opened = token == "(" and depth == 0
        depth += {"(": 1, ")": -1}.get(token, 0)
        if depth < 0 or (depth == 0 and token != ")"):
            raise NoQuery("its parentheses do not match")
    if depth:
        raise NoQuery("its parentheses do not match")
    if other := sorted(set(commands[:-1]) - PARTS):
        raise NoQuery(f"`{other[0]}` is no part of a query")
    if commands[-1:] != ["check-sat"]:
        raise NoQuery("it does not end in one (check-sat)")


def asserted(body: str) -> frozenset[str]:
    """What a query asserts, each as the installed Z3 prints it, so that the queries of two releases can be compared."""
    return frozenset(assertion.sexpr() for assertion in _loaded(body).assertions())


def z3_answer(body: str) -> Answer:
    """What the installed Z3 says, under the prover's own limits."""
    return Answer(str(_loaded(body).check()))


def _loaded(body: str) -> z3.Solver:
    """Raises NoQuery for what is none, or is none to Z3."""
    require_query(body)
    solver = solver_in(z3.Context())
    try:
        solver.from_string(body)
    except z3.Z3Exception as error:
        raise NoQuery(f"Z3 does not read it: {error}") from error
    return solver


def available() -> bool:
    """Whether cvc5 is installed: `pip install cvc5`."""
    return importlib.util.find_spec("cvc5") is not None


def solver(name: str, seconds: float = SECONDS) -> tuple[str, Solver]:
    """A solver and what to call it: "cvc5" is the Python package, anything else a program with its options, which is
    given the name of a file with the script. Raises NoSolver."""
    if name == "cvc5" and available():
        from importlib.metadata import version

        return f"cvc5 {version('cvc5')}", lambda body: _cvc5(body, seconds)
    command = shlex.split(name)
    if not command or shutil.which(command[0]) is None:
        hint = "pip install cvc5" if name == "cvc5" else "name a program on your PATH, with its options: 'cvc5 --quiet'"
        raise NoSolver(f"there is no solver {name!r}: {hint}")
    return name, lambda body: _program(command, body, seconds)


def _cvc5(body: str, seconds: float) -> Answer:
    """The first answer that any of the strategies gives: each has a short look, then a long one."""
    require_query(body)
    for share in (0.2, 0.8):
        for options in STRATEGIES:
            found = _cvc5_with(options, body, seconds * share / len(STRATEGIES))
            if found is not Answer.UNKNOWN:
                return found
    return Answer.UNKNOWN


def _cvc5_with(options: dict[str, str], body: str, seconds: float) -> Answer:
    import cvc5

    solver = cvc5.Solver()
    common = {"tlimit-per": str(max(1, round(seconds * 1000))), "fresh-binders": "true"}
    for name, value in (common | options).items():
        solver.setOption(name, value)
    parser = cvc5.InputParser(solver)
    parser.setStringInput(cvc5.InputLanguage.SMT_LIB_2_6, body, "query")
    said = ""
    try:
        while not (command := parser.nextCommand()).isNull():
            if options is PRODUCTS and command.getCommandName() == "check-sat":
                _add_products(solver)
            said = str(command.invoke(solver, parser.getSymbolManager())).strip() or said
    except RuntimeError:
        return Answer.REFUSED
    return _answer(said)


def _add_products(solver: Any) -> None:
    """Of every two things that a query asserts not to be negative, that their product is not: it follows, so the answer
    stays what it was."""
    from cvc5 import Kind

    zero = solver.mkInteger(0)
    facts = dict.fromkeys(a[0] for a in solver.getAssertions() if a.getKind() == Kind.GEQ and a[1] == zero)
    for x, y in combinations_with_replacement(list(facts)[:MOST], 2):
        solver.assertFormula(solver.mkTerm(Kind.GEQ, solver.mkTerm(Kind.MULT, x, y), zero))


def _program(command: list[str], body: str, seconds: float) -> Answer:
    require_query(body)
    with tempfile.NamedTemporaryFile("w", suffix=".smt2", encoding="utf-8") as file:
        file.write(body)
        file.flush()
        try:
            done = subprocess.run(
                [*command, file.name], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            return Answer.UNKNOWN
    return _answer(done.stdout.strip())


def _answer(said: str) -> Answer:
    """cvc5 gives the reason with it: unknown (TIMEOUT)."""
    word = said.partition(" ")[0]
    return Answer(word) if word in ("unsat", "sat", "unknown") else Answer.REFUSED
