"""Tile functions: the values of symbolic execution.

A tile is a function from lane indices to a scalar; transposing, expanding and broadcasting only change
how indices are passed on. A scalar carries its value, the condition under which it is finite (it is
-inf otherwise; the value is then arbitrary), and the duties owed by whoever uses it: definedness
conditions and exponential arguments met on the way. Duties are collected on demand, from what is
stored: a NaN in a lane that is never stored harms nobody, and one in a branch not taken neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

from ir.ast import Span
from verifier.booleans import TRUE, Bool, conj
from verifier.integers import Int
from verifier.reals import Real
from verifier.terms import fresh

Lanes = tuple[Int, ...]


@dataclass(frozen=True, slots=True)
class Duty:
    """Owed for every lane and iteration where `premise` holds. kind: "defined", `claim` must hold; "exp", S1
    must bound the argument of an exponential; "half", S1 must bound a value cast to f16; "least", S1
    must show that a divisor or argument of log does not underflow; "root", S1 must show that rounding does
    not make the argument of sqrt negative; "quotient", nothing is owed: the quotient is kept for S1, which
    bounds it when an accumulator takes it in. `sign`: "positive" or "nonnegative", if the claim follows
    when the operand at `span` is that (`verifier.floors`)."""

    kind: str
    premise: Bool
    claim: Bool
    argument: Real | None
    what: str
    span: Span
    sign: str = ""


class Duties:
    """A set of duties that iterates in the order in which they were met. The order of a frozenset follows
    addresses and the hash seed, and with it would go the order of terms and queries from run to run."""

    __slots__ = ("_members",)

    def __init__(self, members: Iterable[Duty] = ()) -> None:
        self._members = dict.fromkeys(members)

    def __iter__(self) -> Iterator[Duty]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __or__(self, other: Duties) -> Duties:
        return self.union(other)

    def union(self, *others: Duties) -> Duties:
        rest = [o for o in others if o]
        return self if not rest else rest[0] if not self and len(rest) == 1 else Duties(chain(self, *rest))


NO_DUTIES = Duties()


@dataclass(frozen=True, slots=True)
class Scalar:
    """value: Int, Bool or Real. finite is TRUE unless a Real may be -inf."""

    value: Int | Bool | Real
    finite: Bool = TRUE
    owes: Duties = NO_DUTIES

    @property
    def int(self) -> Int:
        if not isinstance(self.value, Int):
            raise TypeError("an integer was expected")
        return self.value

    @property
    def bool(self) -> Bool:
        if not isinstance(self.value, Bool):
            raise TypeError("a boolean was expected")
        return self.value

    @property
    def real(self) -> Real:
        if not isinstance(self.value, Real):
            raise TypeError("a real was expected")
        return self.value


@dataclass(frozen=True, slots=True)
class Tile:
    """`at(lanes)` is the scalar at those lane indices; shape () takes no index."""

    shape: tuple[int, ...]
    at: Callable[[Lanes], Scalar]

    def scalar(self) -> Scalar:
        return self.at(())


def tile(shape: tuple[int, ...], at: Callable[[Lanes], Scalar]) -> Tile:
    """A tile whose scalars are computed once per distinct index."""
    memo: dict[Lanes, Scalar] = {}

    def remembered(lanes: Lanes) -> Scalar:
        found = memo.get(lanes)
        if found is None:
            found = at(lanes)
            memo[lanes] = found
        return found

    return Tile(shape, remembered)


def with_values(t: Tile, value: Callable[[Lanes], Real]) -> Tile:
    """Other numbers where t is finite."""
    return tile(t.shape, lambda lanes: replace(t.at(lanes), value=value(lanes)))


def lane_symbols(shape: tuple[int, ...], stem: str = "lane") -> Lanes:
    """Fresh lane indices, bounded by the extents; an extent of 1 is index 0."""
    from verifier.integers import lift
    from verifier.terms import as_int

    return tuple(lift(0) if n == 1 else as_int(fresh(stem, 0, n - 1)) for n in shape)


def stored_lanes(shape: tuple[int, ...]) -> Lanes:
    """Lane indices at which stores are looked at: the same symbols for every store of one extent, so that
    what two stores share is computed once. Queries about two stores rename those of the second."""
    from verifier.integers import lift, symbol

    return tuple(lift(0) if n == 1 else symbol(f"lane!{k}of{n}", 0, n - 1) for k, n in enumerate(shape))


def under(condition: Bool, duties: Duties) -> Duties:
    """Duties that only count where the condition holds."""
    if condition is TRUE or not duties:
        return duties
    weakened = (replace(d, premise=conj((d.premise, condition))) for d in duties)
    return Duties(d for d in weakened if d.premise.kind != "false")
