"""Random slips in right kernels: whatever the prover still calls proved agrees with the spec.

A slip is one random edit of the syntax tree (an operator, a name, a literal, an argument, a statement). The
verdict is the prover's alone, its search for counterexamples switched off; then the interpreter and the
spec's evaluator judge it on ragged shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ir.ast import Assign, Binary, Call, For, Module, Name, Number, Span, Store, Unary
from ir.compare import mismatch
from ir.diagnostics import SourceError
from ir.evaluate import evaluate, parameters_default
from ir.inputs import generate
from ir.interpret import Mode, interpret
from ir.loader import bind, load_spec
from ir.parser import parse
from ir.printer import print_module
from ir.program import Program
from ir.spec import Bound
from ir.typing import check
from verifier import refute
from verifier.prove import prove
from verifier.verdict import Verdict

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
KERNELS = (
    "fa2_none", "fa2_bottom_right", "reversed_keys_causal", "lazy_rescale", "two_pass", "gqa_packed_rows", "unfused",
    "exp2_folded_scale", "stepped_range", "fa1_normalised", "clamped_loads", "transposed_scores",
    "atomic_key_blocks", "atomic_sums_converted", "atomic_key_outer_causal", "tail_in_its_own_kernel",
    "attention_bwd/fused_query_outer_top_left", "attention_bwd/fused_per_head_none",
)  # fmt: skip
OPERATORS = (("+", "-", "*"), ("<", "<=", ">", ">=", "=="), ("and", "or"), ("//", "%", "*"), ("/", "*"))
FUNCTIONS = {"max": "sum", "sum": "max", "exp": "exp2", "exp2": "exp", "maximum": "minimum", "min": "max"}
SHAPES = ({"M": 35, "N": 67}, {"M": 67, "N": 29}, {"M": 3, "N": 0}, {"M": 1, "N": 33})
Node = Any


def slips(node: Node, names: tuple[str, ...]) -> Iterator[Node]:
    """The wrong forms of one node."""
    match node:
        case Binary(op, left, right):
            yield from (replace(node, op=o) for group in OPERATORS if op in group for o in group if o != op)
            yield from (left, right, replace(node, left=right, right=left))
        case Number(value):
            yield from (replace(node, value=v) for v in (value + 1, value - 1, value * 2) if v >= 0)
        case Name():
            yield from (Name(other) for other in names if other != node.id)
            yield from (Binary(op, node, Number(Fraction(1))) for op in "+-")
        case Unary():
            yield node.operand
        case Call(function, args, keywords):
            yield from (replace(node, keywords=keywords[:k] + keywords[k + 1 :]) for k in range(len(keywords)))
            yield from (replace(node, args=args[:k] + args[k + 1 :]) for k in range(len(args)))
            yield from args
            if len(args) > 1:
                yield replace(node, args=(args[1], args[0], *args[2:]))
            if function in FUNCTIONS:
                yield replace(node, function=FUNCTIONS[function])


def places(node: Node, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Node]]:
    if isinstance(node, tuple):
        for k, item in enumerate(node):
            yield from places(item, (*path, k))
    elif is_dataclass(node) and not isinstance(node, Span):
        yield path, node
        for field in fields(node):
            yield from places(getattr(node, field.name), (*path, field.name))


def put(node: Node, path: tuple[Any, ...], new: Node) -> Node:
    """The tree with what stands at `path` replaced; None takes an item out of a tuple."""
    if not path:
        return new
    key, rest = path[0], path[1:]
    if isinstance(key, int):
        there = () if not rest and new is None else (put(node[key], rest, new),)
        return (*node[:key], *there, *node[key + 1 :])
    return replace(node, **{key: put(getattr(node, key), rest, new)})


def mutant(data: st.DataObject, module: Module) -> Module:
    found = list(places(module))
    names = tuple(sorted({n.id for _, n in found if isinstance(n, Name)}))
    path, node = found[data.draw(st.integers(0, len(found) - 1))]
    if isinstance(node, (Assign, Store, For)):
        return put(module, path, None)
    options = list(slips(node, names))
    return put(module, path, data.draw(st.sampled_from(options))) if options else module


def disagreement(program: Program, bound: Bound, lengths: dict[str, int]) -> str | None:
    sizes = {"B": 1, "H": 4, "G": 2, **lengths}
    parameters = {name: 1.7 * value for name, value in parameters_default(bound, sizes).items()}
    inputs = generate("normal", 3, bound, sizes, parameters)
    outcome = interpret(program, bound, sizes, parameters, inputs, Mode.EXACT)
    if outcome.faults:
        return outcome.faults[0].message
    worst = mismatch(outcome.tensors, evaluate(bound, sizes, parameters, inputs), 1e-7, inputs=inputs)
    return None if worst is None else str(worst)


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_slip_that_is_proved_does_no_harm(kernel: str, data: st.DataObject) -> None:
    source = (ROOT / "specs" / f"{kernel}.tile" if "/" in kernel else GOLDEN / "proved" / f"{kernel}.tile").read_text()
    name, *options = source.split("\n")[0].removeprefix("# spec: ").split()
    local = GOLDEN / "specs" / f"{name}.toml"
    bound = bind(load_spec(local if local.exists() else name), dict(o.split("=") for o in options))
    module = parse(source)
    for _ in range(data.draw(st.integers(1, 2))):
        module = mutant(data, module)
    try:
        text = print_module(module)
        program = check(parse(text), bound, text)
    except SourceError:
        return  # not a kernel any more
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(refute, "search", lambda *_: {})
        if prove(program, bound, text, evidence=False).verdict is not Verdict.PROVED:
            return
    for lengths in SHAPES:
        assert disagreement(program, bound, lengths) is None, text
