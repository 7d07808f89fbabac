"""What a proof works on: one candidate, executed symbolically, kernel after kernel.

`analyse` runs every kernel once. What a kernel stores to a tensor becomes, through the inverse of its
index map (`verifier.contents`), the expression a later kernel reads there: a cross-kernel contract is
computed and proved, not assumed. Reading a cell whose writer could not be inverted, or of a tensor nobody
wrote, is `Unsupported`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from ir import program as core
from ir.ast import NOWHERE, Span
from ir.spec import Bound
from verifier import reals
from verifier.booleans import Bool, conj, ge0, lt
from verifier.cells import CellFacts
from verifier.contents import Layer, held, layer_of
from verifier.decisions import Decisions, decisions
from verifier.execute import Access, Instance, Reader, Trace
from verifier.floors import Floors
from verifier.formula import Formula, Sizes, sizes_of
from verifier.integers import Int, cell
from verifier.machine import Floats, asked, made_of_floats
from verifier.operations import Unsupported
from verifier.places import Cuts, cuts
from verifier.reals import Real
from verifier.recipes import Recipes
from verifier.scan import PivotBound
from verifier.simplify import Simplifier
from verifier.smt import Context, Ledger, Prover
from verifier.sympy_view import ScanIdentity
from verifier.tiles import Duties, Scalar


@dataclass(frozen=True, slots=True)
class Finding:
    """What one obligation found. `residual` and `span` say what is left when `ok` is false; `model` is an
    integer model of a failed query, from which a refutation may start; `goal` two terms not shown equal."""

    ok: bool
    statement: str
    residual: str = ""
    span: Span = NOWHERE
    trace: tuple[str, ...] = ()
    model: Mapping[str, int] | None = None
    goal: tuple[Real, Real] | None = None


@dataclass(slots=True)
class Proof:
    bound: Bound
    program: core.Program
    sizes: Sizes
    formula: Formula
    context: Context
    simplifier: Simplifier
    ledger: Ledger
    floors: Floors
    traces: list[Trace] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    layers: dict[str, tuple[Layer, ...]] = field(default_factory=dict)
    closed: dict[str, tuple[Real, Context]] = field(default_factory=dict)
    identities: list[ScanIdentity] = field(default_factory=list)
    pivot_bounds: dict[str, PivotBound] = field(default_factory=dict)
    contents: dict[str, Callable[[tuple[Int, ...]], Real]] = field(default_factory=dict)  # of tensors read like inputs

    def extents(self, tensor: str) -> tuple[Int, ...]:
        """The symbolic shape of a tensor."""
        dims = self.program.tensor(tensor).shape
        probe = Instance(
            self.program.kernels[0], self.sizes.values, self.formula.parameters, _no_read, self.context, self.simplifier
        )
        return tuple(probe.expression(d, {}).scalar().int for d in dims)

    def within(self, access: Access) -> Context:
        """The context of an access: its place in the program and its mask."""
        return self.context.given(conj((*access.premises, access.mask)))

    def role(self, tensor: str) -> str:
        return self.program.tensor(tensor).role


def in_floats(proof: Proof) -> Proof:
    """The same candidate, executed as machines do where exponentials are made of floats (`verifier.machine`)."""
    again = replace(proof, traces=[], notes=[], layers={}, closed={}, identities=[], pivot_bounds={}, contents={})
    names, recipes = asked(proof.program), Recipes(proof.program, proof.bound)
    for kernel in proof.program.kernels:
        decided = replace(decisions(kernel, recipes), undecided=frozenset())  # floats compare as they do
        _execute(again, kernel, _float_reader(again, kernel), decided, Floats(kernel, names))
    return again


def analyse(program: core.Program, bound: Bound, cut: bool = False) -> Proof:
    """Execute every kernel of a candidate, with `cut` for any numbers in place of maxima, and any way that lazy
    ones go. Raises Unsupported."""
    sizes = sizes_of(bound)
    formula = Formula(bound, sizes.values)
    ledger = Ledger(CellFacts(formula.tables))
    context = Context(Prover(ledger), sizes.premises)
    proof = Proof(bound, program, sizes, formula, context, Simplifier(), ledger, Floors(program, bound))
    recipes = Recipes(program, bound)
    for kernel in program.kernels:
        names = list(_loop_names(kernel.body))
        if len(set(names)) != len(names):  # loop states and counters are told apart by name alone
            raise Unsupported(f"kernel {kernel.name} uses one name for two loops", kernel.span)
        decided = Decisions() if cut else decisions(kernel, recipes)
        _execute(proof, kernel, _reader(proof), decided, arbitrary=cuts(kernel) if cut else None)
    return proof


def _execute(
    proof: Proof,
    kernel: core.Kernel,
    reader: Reader,
    decided: Decisions,
    floats: Floats | None = None,
    arbitrary: Cuts | None = None,
) -> None:
    run = Instance(
        kernel, proof.sizes.values, proof.formula.parameters, reader, proof.context, proof.simplifier,
        floats=floats, cuts=arbitrary, decisions=decided,
    )  # fmt: skip
    trace = run.run()
    proof.traces.append(trace)
    proof.notes += run.notes
    proof.closed.update(run.closed)
    proof.identities += run.identities
    proof.pivot_bounds.update(run.pivot_bounds)
    for tensor in dict.fromkeys(a.tensor for a in trace.of_kind("store", "atomic")):
        layer = layer_of(len(proof.traces) - 1, trace, tensor)
        proof.layers[tensor] = (*proof.layers.get(tensor, ()), layer)


def _float_reader(proof: Proof, kernel: core.Kernel) -> Reader:
    """What cells hold when a kernel starts, as floats. A tensor of what depends on exponentials, or of totals, and a
    saved input, are read like inputs: a cell holds one float, whatever it is."""
    usual = _reader(proof)
    whole = {name: made_of_floats(proof.program, name) for name in proof.layers}
    saved = {t.name for t, _ in proof.bound.inputs if t.saved}

    def read(tensor: str, index: tuple[Int, ...], span: Span) -> Scalar:
        found = usual(tensor, index, span)
        if tensor in saved or not whole.get(tensor, True) and isinstance(found.value, Real):
            name = f"{tensor} in {kernel.name}"
            proof.contents[name] = lambda at: usual(tensor, at, span).real
            return Scalar(reals.read(name, index), found.finite)
        return found

    return read


def _loop_names(body: tuple[core.Statement, ...]) -> Iterator[str]:
    """Counters and carried names of every loop; typing makes them unique, a hand-built program may not."""
    for s in body:
        if isinstance(s, core.For):
            yield s.counter
            yield from (c.name for c in s.carries)
            yield from _loop_names(s.body)


def _no_read(tensor: str, index: tuple[Int, ...], span: Span) -> Scalar:
    raise Unsupported(f"{tensor} is read where only sizes may stand", span)


def _reader(proof: Proof) -> Reader:
    """What cells hold when the next kernel starts."""
    stored = dict(proof.layers)

    saved = {t.name for t, _ in proof.bound.inputs if t.saved}

    def read(tensor: str, index: tuple[Int, ...], span: Span) -> Scalar:
        if tensor in proof.formula.tables:
            return Scalar(cell(tensor, index))
        if tensor in saved:
            # Its contract. Range was discharged where it was stored; where the spec leaves it undefined (a quotient
            # by zero) nothing is known of it, and whoever uses it there owes that. Those duties stand in the spec:
            # how the kernel computes what stands at the same line and column has no say in them.
            value = proof.formula.output(tensor, index)
            owes = (replace(d, span=NOWHERE) for d in value.owes if d.kind == "defined")
            return Scalar(value.real, value.finite, Duties(owes))
        if proof.role(tensor) == "input":
            return Scalar(reals.read(tensor, index))
        if tensor not in stored:
            raise Unsupported(f"{tensor} is read before any kernel stored it", span)
        return held(stored[tensor], index, proof.within, span)

    return read


def in_bounds(index: tuple[Int, ...], extents: tuple[Int, ...]) -> Bool:
    return conj(part for i, n in zip(index, extents, strict=True) for part in (ge0(i), lt(i, n)))


