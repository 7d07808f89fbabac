"""B2: integers fit the width they are computed in.

Interval arithmetic under the spec's limits bounds every integer a kernel computes; all must fit 64 bits,
and a value the candidate casts to i32 must fit 32. Address offsets are sum(index * stride) with
0 <= index < extent (B1) and non-negative strides (the launcher checks them), so an offset and each of its
partial sums is at most sum((extent-1) * stride): the span of the tensor, which any tensor that exists
keeps below 2^57 (the width of a virtual address), whatever view of a fused buffer it is. 32-bit offsets
are used only when sum((extent-1) * max_stride) fits 31 bits for every layout the spec admits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ir.spec import Parameter
from verifier.booleans import Bool, conj, ge0
from verifier.elimination import bounds
from verifier.execute import Trace
from verifier.integers import Atom, Int, lift, split_multiple
from verifier.proof import Finding, Proof
from verifier.terms import atom_of

STATEMENT = (
    "every index and address offset fits the width it is computed in, for every size in the limits and every "
    "admitted layout"
)
INT32 = 2**31 - 1
INT64 = 2**63 - 1
ADDRESS_SPACE = 2**57


@dataclass(frozen=True, slots=True)
class Widths:
    finding: Finding
    bits: tuple[tuple[str, int], ...]  # of address offsets, per kernel
    index_bits: tuple[tuple[str, int], ...]  # of the other integers
    facts: tuple[tuple[str, str], ...]


def check(proof: Proof) -> Widths:
    bits: list[tuple[str, int]] = []
    index_bits: list[tuple[str, int]] = []
    trace: list[str] = []
    facts: list[tuple[str, str]] = []
    for t, kernel in zip(proof.traces, proof.program.kernels, strict=True):
        intervals = Intervals(proof, t)
        problem = _integers(proof, t, intervals)
        if problem is not None:
            return Widths(problem, (), (), ())
        span = max((_span(proof, a.tensor, intervals) for a in t.accesses), default=0)
        largest = max((intervals.high(i) or 0 for i, _ in t.integers), default=0)
        given = max((max(high, -low) for low, high in intervals.arguments.values()), default=0)  # of that width too
        small = max(largest, given) <= INT32 and all((intervals.low(i) or 0) >= -INT32 - 1 for i, _ in t.integers)
        narrow = span <= INT32 and small
        if kernel.schedule.offset_bits == 32 and not narrow:
            what = f"{t.kernel} asks for 32-bit offsets, but an offset may reach {span} under the limits"
            return Widths(Finding(False, STATEMENT, what, kernel.span), (), (), ())
        bits.append((t.kernel, 32 if narrow else 64))
        index_bits.append((t.kernel, 32 if small else 64))
        trace.append(
            f"{t.kernel}: offsets <= {min(span, ADDRESS_SPACE)} in {bits[-1][1]} bits, "
            f"integers <= {largest} in {index_bits[-1][1]} bits"
        )
        names = sorted({a.tensor for a in t.accesses})
        unsafe = f"32-bit offsets would be safe while every tensor spans <= {INT32} elements"
        safe = "any shape within the limits" if narrow else unsafe
        facts.append((f"largest safe shape, {t.kernel} ({', '.join(names)})", safe))
    return Widths(Finding(True, STATEMENT, trace=tuple(trace)), tuple(bits), tuple(index_bits), tuple(facts))


def limits(proof: Proof) -> Bool:
    """The spec's limits of sizes and integer parameters, as a formula."""
    values = {d.name: (proof.sizes.values[d.name], d.maximum) for d in proof.bound.dims}
    values |= {p.name: (proof.formula.parameters[p.name].int, int(p.upper)) for p in integer_parameters(proof)}
    return conj(ge0(lift(high) - value) for value, high in values.values())


def integer_parameters(proof: Proof) -> tuple[Parameter, ...]:
    return tuple(p for p in proof.bound.spec.parameters if p.integer)


def _integers(proof: Proof, trace: Trace, intervals: Intervals) -> Finding | None:
    for value, span in trace.integers:
        low, high = intervals.of(value)
        if low is None or high is None or low < -INT64 - 1 or high > INT64:
            return Finding(False, STATEMENT, f"{trace.kernel}: {value!r} may not fit 64 bits (<= {high})", span)
    for value, width, premises, span in trace.casts:
        largest = INT32 if width == 32 else INT64
        low, high = intervals.of(value)
        if low is not None and high is not None and low >= -largest - 1 and high <= largest:
            continue
        context = proof.context.given(conj(premises)).given(limits(proof))
        fits = conj((ge0(value + (largest + 1)), ge0(lift(largest) - value)))
        if not context.entails(fits):
            what = f"{trace.kernel}: {value!r} is cast to i{width} but may reach {high}"
            return Finding(False, STATEMENT, what, span, model=context.model(~fits))
    return None


def _span(proof: Proof, tensor: str, intervals: Intervals) -> int:
    total = 0
    for extent in proof.extents(tensor):
        high = intervals.high(extent)
        total += ADDRESS_SPACE if high is None else max(0, high - 1) * proof.bound.spec.max_stride
    return total


class Intervals:
    """Bounds of integer terms under the spec's limits, in any of these kernels. A program id goes by the name of its
    axis alone, so of several kernels that call an axis the same the longest counts."""

    def __init__(self, proof: Proof, *traces: Trace) -> None:
        self.values: Mapping[Int, int] = {proof.sizes.values[d.name]: d.maximum for d in proof.bound.dims}
        powers = [(value.terms, high) for value, high in self.values.items()]
        self.products = [(terms[0][0], high) for terms, high in powers if len(terms) == 1 and terms[0][1] == 1]
        self.products = [(power, high) for power, high in self.products if len(power) > 1]
        self.symbols: dict[Atom, tuple[int | None, int | None]] = {}
        self.tables = proof.formula.tables
        for d in proof.bound.dims:
            atom = proof.sizes.values[d.name].atom
            if atom is not None:
                self.symbols[atom] = (d.minimum, d.maximum)
        parameters = integer_parameters(proof)
        self.arguments = {d.name: (d.minimum, d.maximum) for d in proof.bound.dims}
        self.arguments |= {p.name: (int(p.lower), int(p.upper)) for p in parameters}
        self.symbols |= {atom_of(proof.formula.parameters[p.name].int): self.arguments[p.name] for p in parameters}
        maxima = {d.name: d.maximum for d in proof.bound.dims}
        for name, (whole, _) in proof.sizes.quotients.items():
            for value in proof.sizes.values.values():
                for power, _c in value.terms:
                    for a in power:
                        if a.kind == "sym" and a.name == name:
                            self.symbols[a] = (1, maxima[whole])
        grid = [axis for trace in traces for axis in trace.grid]
        self.extents = {pid: extent for pid, extent in grid if all(n is extent for i, n in grid if i is pid)}
        longest: dict[Int, list[int | None]] = {}
        for pid, extent in grid:
            longest.setdefault(pid, []).append(self.high(extent))
        for pid, highs in longest.items():
            known = [h for h in highs if h is not None]
            self.symbols[atom_of(pid)] = (0, max(known) - 1 if len(known) == len(highs) else None)
        for trace in traces:
            for counter, premises in trace.loops:
                self._counter(atom_of(counter), premises)
            for access in trace.accesses:
                for counter in access.counters:
                    self._counter(atom_of(counter), access.premises)

    def _counter(self, counter: Atom, premises: tuple[Bool, ...]) -> None:
        """Bounds of a loop counter from its range premises (one literal each way suffices)."""
        if counter in self.symbols:
            return
        low: int | None = None
        high: int | None = None
        for p in premises:
            a, b = self._range(counter, p)
            low = a if low is None else low if a is None else max(low, a)
            high = b if high is None else high if b is None else min(high, b)
        self.symbols[counter] = (low, high)

    def _range(self, counter: Atom, p: Bool) -> tuple[int | None, int | None]:
        """Bounds a premise gives: the tightest over a conjunction, the loosest over a disjunction."""
        if p.kind in ("and", "or"):
            parts = [self._range(counter, q) for q in p.args]
            lows, highs = [a for a, _ in parts], [b for _, b in parts]
            if p.kind == "and":
                return _tightest(lows, highs)
            return (
                None if None in lows else min(a for a in lows if a is not None),
                None if None in highs else max(b for b in highs if b is not None),
            )
        found = bounds(counter, p)
        if found is None:
            return None, None
        lows = [self.of(x)[0] for x in found[0]]
        highs = [self.of(x)[1] for x in found[1]]
        return _tightest(lows, highs)

    def low(self, x: Int) -> int | None:
        return self.of(x)[0]

    def high(self, x: Int) -> int | None:
        return self.of(x)[1]

    def of(self, x: Int) -> tuple[int | None, int | None]:
        known = self.values.get(x)
        if known is not None:
            return 0, known
        low: int | None = 0
        high: int | None = 0
        for power, c in x.terms:
            a, b = self._power(power)
            a, b = (a, b) if c > 0 else (b, a)
            low = None if low is None or a is None else low + c * a
            high = None if high is None or b is None else high + c * b
        return low, high

    def _power(self, power: tuple[Atom, ...]) -> tuple[int | None, int | None]:
        ends: tuple[int | None, int | None] = (1, 1)
        for product, largest in self.products:  # G * (H/G) is H, and has the limit of H
            if len(power) > len(product) and not Counter(product) - Counter(power):
                power, ends = tuple((Counter(power) - Counter(product)).elements()), (0, largest)
        for a in power:
            low, high = self._atom(a)
            if None in (*ends, low, high):
                return (None, None) if len(power) > 1 or ends != (1, 1) else (low, high)
            products = [x * y for x in ends for y in (low, high)]  # type: ignore[operator]
            ends = min(products), max(products)
        return ends

    @staticmethod
    def _quotient(
        low: int | None, high: int | None, least: int | None, most: int | None
    ) -> tuple[int | None, int | None]:
        """Of x div d, low <= x <= high and least <= d <= most; a divisor is positive (`execute` refuses others)."""
        least = max(1, least or 1)
        if low is not None:
            low = low // least if low < 0 else 0 if most is None else low // most
        if high is not None:
            high = high // least if high >= 0 else -1 if most is None else high // most
        return low, high

    def _atom(self, a: Atom) -> tuple[int | None, int | None]:
        match a.kind:
            case "sym":
                return self.symbols.get(a, (a.low, a.high))
            case "mod":
                high = self.high(a.args[1])
                return 0, None if high is None else high - 1
            case "div":
                extent = self.extents.get(a.args[0])
                if extent is not None:  # a program id below count * d, divided by d
                    count, rest = split_multiple(extent, a.args[1])
                    high = self.high(count) if rest is lift(0) else None
                    if high is not None:
                        return 0, high - 1
                return self._quotient(*self.of(a.args[0]), *self.of(a.args[1]))
            case "cell":
                return self._cell(a)
            case "min":
                (a0, b0), (a1, b1) = self.of(a.args[0]), self.of(a.args[1])
                highs = [h for h in (b0, b1) if h is not None]
                return (None if a0 is None or a1 is None else min(a0, a1)), (min(highs) if highs else None)
            case "max":
                (a0, b0), (a1, b1) = self.of(a.args[0]), self.of(a.args[1])
                lows = [low for low in (a0, a1) if low is not None]
                return (max(lows) if lows else None), (None if b0 is None or b1 is None else max(b0, b1))
            case _:
                (a0, b0), (a1, b1) = self.of(a.args[1]), self.of(a.args[2])
                return (
                    None if a0 is None or a1 is None else min(a0, a1),
                    None if b0 is None or b1 is None else max(b0, b1),
                )


    def _cell(self, a: Atom) -> tuple[int | None, int | None]:
        """A cell that is loaded is inside its tensor (B1): within its dtype and the spec's facts."""
        table = self.tables.get(a.args[0])
        if table is None:
            return None, None
        low = 0 if table.splits is not None else None if table.least is None else self.low(table.least)
        most = table.splits if table.splits is not None else table.most
        high = None if most is None else self.high(most)
        return _tightest([-(2 ** (table.bits - 1)), low], [2 ** (table.bits - 1) - 1, high])


def _tightest(lows: list[int | None], highs: list[int | None]) -> tuple[int | None, int | None]:
    known_lows, known_highs = [a for a in lows if a is not None], [b for b in highs if b is not None]
    return max(known_lows, default=None), min(known_highs, default=None)
