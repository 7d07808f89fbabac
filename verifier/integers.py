"""Integer terms of the logic, hash-consed and kept in a normal form.

An `Int` is a polynomial over integer atoms (symbols, floor quotients and remainders, min, max,
if-then-else), coefficients in Z. Terms are interned: structurally equal terms are the same object, so
equality is identity and memo tables are cheap. Terms live for one proof (`reset`).

The rewrites applied on construction are identities of Z, each with its side condition:
  (d*q + r) div d = q + r div d                   d != 0
  r div d = 0, r mod d = r                        0 <= r < d
  (x mod d) div d = 0                             d > 0
  (x mod (a*b)) div b = (x div b) mod a, (x mod (a*b)) mod b = x mod b   a, b > 0
  x mod d = x - d*(x div d)  for the part of x that is a multiple of d
  c*(x mod d) + c*d*(x div d) = c*x               d != 0
Everything else is left to Z3. Divisors are always positive: `execute` and `formula` refuse the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

T = TypeVar("T")
MAX_TERMS = 3_000_000  # flash attention needs about 25,000


class ProofTooLarge(Exception):
    """The terms or queries of one proof exceed their limit; the verdict is `unproved`."""


_table: dict[Any, Any] = {}
_counter: list[int] = [0]
_caches: list[dict[Any, Any]] = []


def reset() -> None:
    """Forget every interned term; call before a proof. Terms of two proofs must not be mixed."""
    _table.clear()
    _counter[0] = 0
    for cache in _caches:
        cache.clear()


def term_cache() -> dict[Any, Any]:
    """A memo table keyed by terms, forgotten with them."""
    cache: dict[Any, Any] = {}
    _caches.append(cache)
    return cache


def interned(key: Any, make: Callable[[int], T]) -> T:
    """The one object for `key`; `make` receives a fresh serial number."""
    found = _table.get(key)
    if found is None:
        _counter[0] += 1
        if _counter[0] > MAX_TERMS:
            raise ProofTooLarge(f"the proof needs more than {MAX_TERMS} terms")
        found = make(_counter[0])
        _table[key] = found
    return found


# ---- integers --------------------------------------------------------------------------------


class Atom:
    """An integer atom. kind: sym, div, mod, min, max, ite, cell. A symbol carries its name and static
    bounds (None where unknown), which must hold wherever the symbol is in scope. A cell is what an integer
    input holds at an index, (tensor, indices): a function of which nothing is known here (`verifier.cells`)."""

    __slots__ = ("kind", "args", "low", "high", "serial")

    def __init__(self, kind: str, args: tuple[Any, ...], low: int | None, high: int | None, serial: int) -> None:
        self.kind: Final = kind
        self.args: Final = args
        self.low: Final = low
        self.high: Final = high
        self.serial: Final = serial

    @property
    def name(self) -> str:
        return str(self.args[0])

    def __repr__(self) -> str:
        if self.kind == "sym":
            return self.name
        if self.kind in ("div", "mod"):
            return f"({self.args[0]!r} {'//' if self.kind == 'div' else '%'} {self.args[1]!r})"
        if self.kind == "cell":
            return f"{self.args[0]}[{', '.join(map(repr, self.args[1]))}]"
        if self.kind == "ite":
            return f"({self.args[1]!r} if {self.args[0]!r} else {self.args[2]!r})"
        return f"{self.kind}({self.args[0]!r}, {self.args[1]!r})"


Power = tuple[Atom, ...]  # a product of atoms, sorted by serial; () is 1


class Int:
    """sum of coefficient * product of atoms; `terms` is sorted and has no zero coefficient."""

    __slots__ = ("terms", "serial")

    def __init__(self, terms: tuple[tuple[Power, int], ...], serial: int) -> None:
        self.terms: Final = terms
        self.serial: Final = serial

    @property
    def constant(self) -> int | None:
        """The value when this is a literal."""
        if not self.terms:
            return 0
        return self.terms[0][1] if len(self.terms) == 1 and not self.terms[0][0] else None

    @property
    def atom(self) -> Atom | None:
        """The atom when this is 1 * atom."""
        if len(self.terms) == 1 and self.terms[0][1] == 1 and len(self.terms[0][0]) == 1:
            return self.terms[0][0][0]
        return None

    def __add__(self, other: Int | int) -> Int:
        added = lift(other)
        if not added.terms or not self.terms:
            return added if not self.terms else self
        total = dict(self.terms)
        for power, coefficient in added.terms:
            total[power] = total.get(power, 0) + coefficient
        return polynomial(total)

    def __neg__(self) -> Int:
        return _int(tuple([(p, -c) for p, c in self.terms]))  # still sorted, still without zeros

    def __sub__(self, other: Int | int) -> Int:
        return self + -lift(other)

    def __mul__(self, other: Int | int) -> Int:
        total: dict[Power, int] = {}
        for p, c in self.terms:
            for q, d in lift(other).terms:
                power = tuple(sorted(p + q, key=_serial)) if p and q else p or q
                total[power] = total.get(power, 0) + c * d
        return polynomial(total)

    def __rsub__(self, other: int) -> Int:
        return lift(other) - self

    __radd__ = __add__
    __rmul__ = __mul__

    def __repr__(self) -> str:
        def term(power: Power, c: int) -> str:
            name = "*".join(map(repr, power))
            return str(c) if not power else name if c == 1 else f"-{name}" if c == -1 else f"{c}*{name}"

        shown = " + ".join(term(p, c) for p, c in reversed(self.terms)) or "0"
        return shown.replace("+ -", "- ")


def _serial(atom: Atom) -> int:
    return atom.serial


def _order(item: tuple[Power, int]) -> tuple[int, ...]:
    power = item[0]
    return (1, power[0].serial) if len(power) == 1 else (len(power), *[a.serial for a in power])


def polynomial(terms: Mapping[Power, int]) -> Int:
    if len(terms) > 1:
        for power in terms:
            for atom in power:
                if atom.kind == "mod" and terms[power]:
                    whole = _recombined(terms, power, atom)
                    if whole is not None:
                        return whole
    return _written(terms)


def _written(terms: Mapping[Power, int]) -> Int:
    """The polynomial as it is written, quotients and remainders not put together."""
    found = [item for item in terms.items() if item[1]]
    if len(found) > 1:
        found.sort(key=_order)
    return _int(tuple(found))


def _int(kept: tuple[tuple[Power, int], ...]) -> Int:
    """The one integer of these terms. Most are there: looked up without what would make one."""
    key = ("int", kept)
    found: Int | None = _table.get(key)
    return found if found is not None else interned(key, lambda serial: Int(kept, serial))


def division_meaning(a: Atom) -> tuple[Int, ...]:
    """What a quotient or remainder by d > 0 means, as terms that are not negative: x = d*q + r, 0 <= r < d."""
    x, d = a.args
    q, r = (interned(("atom", k, x, d), lambda s, k=k: Atom(k, (x, d), None, None, s)) for k in ("div", "mod"))  # type: ignore[misc]
    gap = dict(x.terms)
    for power, c in d.terms:
        product = tuple(sorted((*power, q), key=_serial))
        gap[product] = gap.get(product, 0) - c
    gap[(r,)] = gap.get((r,), 0) - 1
    room = {**dict(d.terms), (r,): -1}
    room[()] = room.get((), 0) - 1
    return _written(gap), _written({p: -c for p, c in gap.items()}), _written({(r,): 1}), _written(room)


def _recombined(terms: Mapping[Power, int], power: Power, remainder: Atom) -> Int | None:
    """c*(x mod d) + c*d*(x div d) = c*x for a product c, where the quotient is there in full."""
    x, d = remainder.args
    quotient: Atom | None = div(x, d).atom
    if quotient is None or len(d.terms) != 1:
        return None
    (symbols, factor), c = d.terms[0], terms[power]
    others = list(power)
    others.remove(remainder)
    partner = tuple(sorted((*others, *symbols, quotient), key=_serial))
    if terms.get(partner) != c * factor:
        return None
    rest = {p: k for p, k in terms.items() if p not in (power, partner)}
    whole: Int = polynomial(rest) + x * polynomial({tuple(others): c})
    return whole


def lift(value: Int | int) -> Int:
    if isinstance(value, Int):
        return value
    return _int((((), value),) if value else ())


def symbol(name: str, low: int | None = None, high: int | None = None) -> Int:
    """The integer symbol `name`; low <= symbol <= high must hold wherever it is used."""
    return _of(interned(("sym", name, low, high), lambda serial: Atom("sym", (name,), low, high, serial)))


def _of(atom: Atom) -> Int:
    return polynomial({(atom,): 1})


def compound(kind: str, *args: Any) -> Int:
    """One atom of a kind other than a symbol, as a term."""
    return _of(interned(("atom", kind, *args), lambda serial: Atom(kind, args, None, None, serial)))


def cell(tensor: str, index: tuple[Int, ...]) -> Int:
    """What an integer input holds at an index; arbitrary outside the tensor."""
    return compound("cell", tensor, index)


def part_name(tensor: str) -> str:
    """The name of the function from a position to the part of `tensor` it lies in (`verifier.cells`)."""
    return f"part({tensor})"


def interval(x: Int) -> tuple[int | None, int | None]:
    """Static bounds of x from the bounds of its symbols; None where there is none."""
    low: int | None = 0
    high: int | None = 0
    for power, c in x.terms:
        a, b = _power_interval(power)
        a, b = (a, b) if c > 0 else (b, a)
        low = None if low is None or a is None else low + c * a
        high = None if high is None or b is None else high + c * b
    return low, high


def _power_interval(power: Power) -> tuple[int | None, int | None]:
    low: int | None = 1
    high: int | None = 1
    for atom in power:
        a, b = _atom_interval(atom)
        if a is None or a < 0 or low is None:
            return (a, b) if len(power) == 1 else (None, None)
        low = low * a
        high = None if high is None or b is None else high * b
    return low, high


def _atom_interval(atom: Atom) -> tuple[int | None, int | None]:
    match atom.kind:
        case "sym":
            return atom.low, atom.high
        case "mod":
            high = interval(atom.args[1])[1]
            return 0, None if high is None else high - 1
        case "div":
            (a, b), (dl, dh) = interval(atom.args[0]), interval(atom.args[1])
            if dl is None or dl < 1:
                return None, None
            low = None if a is None else (a // dl if a < 0 else (0 if dh is None else a // dh))
            high = None if b is None else (b // dl if b >= 0 else (-1 if dh is None else b // dh))
            return low, high
        case "min" | "max":
            pick = min if atom.kind == "min" else max
            (a, b), (c, d) = interval(atom.args[0]), interval(atom.args[1])
            loose = [x for x in (b, d) if x is not None] if pick is min else [x for x in (a, c) if x is not None]
            if pick is min:
                return None if a is None or c is None else min(a, c), min(loose) if loose else None
            return max(loose) if loose else None, None if b is None or d is None else max(b, d)
        case "cell":
            return None, None  # its facts hold inside the tensor only, a static bound would hold everywhere
        case _:
            (a, b), (c, d) = interval(atom.args[1]), interval(atom.args[2])
            return None if a is None or c is None else min(a, c), None if b is None or d is None else max(b, d)


def positive(x: Int) -> bool:
    """Whether the static bounds show x >= 1."""
    low = interval(x)[0]
    return low is not None and low >= 1


def split_multiple(x: Int, d: Int) -> tuple[Int, Int]:
    """(q, r) with x = d*q + r, taking into q what is syntactically a multiple of d."""
    quotient: dict[Power, int] = {}
    rest: dict[Power, int] = {}
    n = d.constant
    divisor = d.terms[0] if len(d.terms) == 1 else ((), 0)
    for power, c in x.terms:
        if n is not None:
            whole_part = c // n if c > 0 or not power else -(-c // n)  # towards zero, but floor a literal
            if whole_part:
                quotient[power] = whole_part
            if c - n * whole_part:
                rest[power] = c - n * whole_part
            continue
        remaining = list(power)
        whole = bool(divisor[1]) and c % divisor[1] == 0
        for atom in divisor[0]:
            if atom in remaining:
                remaining.remove(atom)
            else:
                whole = False
        if whole:
            key = tuple(remaining)
            quotient[key] = quotient.get(key, 0) + c // divisor[1]
        else:
            rest[power] = c
    return polynomial(quotient), polynomial(rest)


def div(x: Int, d: Int) -> Int:
    """Floor quotient; d must be positive wherever this is used."""
    quotient, rest = split_multiple(x, d)
    return quotient + _small_div(rest, d)


def _small_div(rest: Int, d: Int) -> Int:
    n, r = d.constant, rest.constant
    if n is not None and r is not None:
        return lift(r // n)
    if n == 1:
        return rest
    low, high = interval(rest)
    bound = interval(d)[0]
    if low is not None and high is not None and bound is not None and 0 <= low and high < bound:
        return lift(0)
    atom = rest.atom
    if atom is not None and atom.kind == "mod" and atom.args[1] is d:
        return lift(0)
    if atom is not None and atom.kind == "div":
        return div(atom.args[0], d * atom.args[1])  # (x div a) div b = x div (a*b), a, b > 0
    if atom is not None and (a := _digits(atom, n)) is not None and n is not None:
        return mod(div(atom.args[0], d), lift(a))  # (x mod (a*b)) div b = (x div b) mod a, a, b > 0
    return compound("div", rest, d)


def mod(x: Int, d: Int) -> Int:
    """Remainder in 0..d-1; d must be positive wherever this is used."""
    _, rest = split_multiple(x, d)
    if _small_div(rest, d) is lift(0):
        return rest
    n, r = d.constant, rest.constant
    if n is not None and r is not None:
        return lift(r % n)
    if rest.atom is not None and _digits(rest.atom, n) is not None:
        return mod(rest.atom.args[0], d)  # (x mod (a*b)) mod b = x mod b, a, b > 0
    return compound("mod", rest, d)


def _digits(atom: Atom, b: int | None) -> int | None:
    """a when the atom is x mod (a*b), all literals."""
    whole = atom.args[1].constant if atom.kind == "mod" else None
    return whole // b if whole is not None and b is not None and whole % b == 0 else None


def minimum(a: Int, b: Int) -> Int:
    return _extreme("min", a, b)


def maximum(a: Int, b: Int) -> Int:
    return _extreme("max", a, b)


def _extreme(kind: str, a: Int, b: Int) -> Int:
    gap = (a - b) if kind == "min" else (b - a)  # a wins when gap <= 0
    low, high = interval(gap)
    if high is not None and high <= 0:
        return a
    if low is not None and low >= 0:
        return b
    first, second = sorted((a, b), key=lambda x: x.serial)
    return compound(kind, first, second)
