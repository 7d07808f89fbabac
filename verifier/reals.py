"""Real terms in normal form, hash-consed.

A `Real` is a sum of monomials with rational coefficients. A monomial is a guard (Iverson bracket: the
term counts where the guard holds, else 0), a product of atoms to integer powers, and at most one
exponential whose argument is again a `Real`. Atoms are tensor reads, parameters, sums and maxima over
guarded integer domains, logarithms, named functions, and, during the analysis of a loop, the values
its carried names have before (`state`) and after (`new`) an iteration.

Rules applied on construction (ids as in docs/proof.md), all identities of the reals:
  ring      commutative ring over Q, guards multiply by conjunction
  exp-mul   exp(a) exp(b) = exp(a+b), exp(0) = 1
  exp-log   exp(k log x) = x^k for integer k; x > 0 is the definedness condition of that log
  log-mul   log(c exp(a) x) = log c + a + log x; c > 0, and x is the only factor not known positive
            (then x > 0 wherever the product is, which is the definedness condition of the log). Of a sum,
            what all its terms share of c, exp(a) and positive constants is moved out
  sqrt-pow, sqrt-mul  square roots: see `verifier.roots`
  inv       (c x exp(a))^-1 = c^-1 x^-1 exp(-a); x != 0 is the definedness condition of the division,
            so x * x^-1 = 1 needs no further condition. Of a sum, what all its terms share is moved out first:
            (c x exp(a) (y + z))^-1 = c^-1 x^-1 exp(-a) (y + z)^-1. Of a choice: 1 / (a if g else b) is
            1 / a if g, else 1 / b
  max-pos   max(c S) = c * max(S) for c > 0
  int-ring  an integer as a real: int(a b + c) = int(a) int(b) + int(c)
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any, Final

from verifier.booleans import TRUE, Bool, conj, conjuncts, negate
from verifier.integers import Atom, Int, interned


class RealAtom:
    """kind and args:
    param (name, lower, upper) | read (tensor, indices) | random ("random", (seed, counter)) | int (Int) |
    fn (name, Real) | log (Real) |
    poly (Real)  only ever to a negative power |
    sum (symbols, guard, body) | max (members), a member being (symbols, guard, body) |
    state, new (name, lanes)   the value of a carried name before and after an iteration |
    pivot (name, arguments)    an arbitrary value, one per argument tuple |
    opaque (key)               a value nothing is known of
    """

    __slots__ = ("kind", "args", "serial")

    def __init__(self, kind: str, args: tuple[Any, ...], serial: int) -> None:
        self.kind: Final = kind
        self.args: Final = args
        self.serial: Final = serial

    def __repr__(self) -> str:
        match self.kind:
            case "param":
                return str(self.args[0])
            case "read" | "random":
                return f"{self.args[0]}[{', '.join(map(repr, self.args[1]))}]"
            case "int":
                return f"({self.args[0]!r})"
            case "fn":
                return f"{self.args[0]}({self.args[1]!r})"
            case "log" | "poly":
                return ("log" if self.kind == "log" else "") + f"({self.args[0]!r})"
            case "sum":
                return f"sum[{_binder(self.args)}]({self.args[2]!r})"
            case "max":
                return "max{" + "; ".join(f"[{_binder(m)}] {m[2]!r}" for m in self.args[0]) + "}"
            case "state" | "new" | "pivot":
                mark = "'" if self.kind == "new" else ""
                return f"{self.args[0]}{mark}[{', '.join(map(repr, self.args[1]))}]"
            case _:
                return f"?{self.serial}"


def _binder(part: tuple[Any, ...]) -> str:
    return f"{', '.join(map(repr, part[0]))} | {part[1]!r}"


Factors = tuple[tuple[RealAtom, int], ...]


class Monomial:
    __slots__ = ("guard", "factors", "exponent", "serial")

    def __init__(self, guard: Bool, factors: Factors, exponent: Real | None, serial: int) -> None:
        self.guard: Final = guard
        self.factors: Final = factors
        self.exponent: Final = exponent
        self.serial: Final = serial

    def __repr__(self) -> str:
        parts = [] if self.guard is TRUE else [f"[{self.guard!r}]"]
        parts += [repr(a) if k == 1 else f"{a!r}^{k}" for a, k in self.factors]
        if self.exponent is not None:
            parts.append(f"exp({self.exponent!r})")
        return " * ".join(parts) or "1"


class Real:
    __slots__ = ("terms", "serial")

    def __init__(self, terms: tuple[tuple[Monomial, Fraction | int], ...], serial: int) -> None:
        self.terms: Final = terms
        self.serial: Final = serial

    @property
    def constant(self) -> Fraction | int | None:
        if not self.terms:
            return 0
        (mono, c), *rest = self.terms
        return c if not rest and mono is _unit() else None

    @property
    def atom(self) -> RealAtom | None:
        """The atom when this is 1 * atom without guard or exponential."""
        if len(self.terms) == 1:
            mono, c = self.terms[0]
            if c == 1 and mono.guard is TRUE and mono.exponent is None and len(mono.factors) == 1:
                atom, power = mono.factors[0]
                return atom if power == 1 else None
        return None

    def __add__(self, other: Real) -> Real:
        return total((*self.terms, *other.terms))

    def __neg__(self) -> Real:
        return _real(tuple([(m, -c) for m, c in self.terms]))  # still sorted, still without zeros

    def __sub__(self, other: Real) -> Real:
        return self + -other

    def __mul__(self, other: Real) -> Real:
        if self.constant == 1 or other.constant == 1:
            return other if self.constant == 1 else self
        out: list[tuple[Monomial, Fraction | int]] = []
        for m, c in self.terms:
            for n, d in other.terms:
                out.extend((t, c * d * k) for t, k in _multiply(m, n).terms)
        return total(out)

    def __repr__(self) -> str:
        def term(m: Monomial, c: Fraction | int) -> str:
            return str(c) if m is _unit() else repr(m) if c == 1 else f"-{m!r}" if c == -1 else f"{c} * {m!r}"

        return " + ".join(term(m, c) for m, c in self.terms).replace("+ -", "- ") or "0"


def _unit() -> Monomial:
    return interned(("mono", TRUE, (), None), lambda s: Monomial(TRUE, (), None, s))


def total(terms: Iterable[tuple[Monomial, Fraction | int]]) -> Real:
    """Collect equal monomials."""
    sums: dict[Monomial, Fraction | int] = {}
    for mono, c in terms:
        if mono.guard.kind != "false":
            sums[mono] = sums[mono] + c if mono in sums else c
    found = [item for item in sums.items() if item[1]]
    if len(found) > 1:
        found.sort(key=_serial)
    return _real(tuple(found))


def _real(kept: tuple[tuple[Monomial, Fraction | int], ...]) -> Real:
    return interned(("real", kept), lambda s: Real(kept, s))


def _serial(term: tuple[Any, Any]) -> int:
    return int(term[0].serial)


def number(value: Fraction | int) -> Real:
    """A literal. Integral coefficients are kept as int: equal to the Fraction, and much faster."""
    return total(((_unit(), int(value) if value.denominator == 1 else value),))


def real_atom(kind: str, *args: Any) -> RealAtom:
    return interned(("real atom", kind, *args), lambda s: RealAtom(kind, args, s))


def of(atom: RealAtom, power: int = 1) -> Real:
    return monomial(TRUE, {atom: power}, None)


def monomial(guard: Bool, powers: dict[RealAtom, int], exponent: Real | None) -> Real:
    """guard * product of powers * exp(exponent), normalised; a Real because rules may split it."""
    extra: Real | None = None
    if any(a.kind == "fn" and a.args[0] == "sqrt" for a in powers):
        from verifier.roots import whole_powers

        powers, extra = whole_powers(powers)
    found = [item for item in powers.items() if item[1]]
    factors = tuple(sorted(found, key=_serial) if len(found) > 1 else found)
    if exponent is not None:
        exponent, logs = _split_logs(exponent)
        extra = logs if extra is None else extra if logs is None else extra * logs
    mono = interned(("mono", guard, factors, exponent), lambda s: Monomial(guard, factors, exponent, s))
    out = total(((mono, 1),))
    return out if extra is None else out * extra


def _split_logs(exponent: Real) -> tuple[Real | None, Real | None]:
    """exp-log: exp(e) = exp(rest) * extra, with every integer multiple of a bare log moved to extra."""
    rest: list[tuple[Monomial, Fraction | int]] = []
    extra: Real | None = None
    for mono, c in exponent.terms:
        log = mono.factors[0][0] if len(mono.factors) == 1 and mono.factors[0][1] == 1 else None
        bare = log is not None and log.kind == "log" and mono.guard is TRUE and mono.exponent is None
        if log is not None and bare and c.denominator == 1:
            part = power(log.args[0], int(c))
            extra = part if extra is None else extra * part
        else:
            rest.append((mono, c))
    remaining = total(rest)
    return (remaining if remaining.terms else None), extra


def _multiply(m: Monomial, n: Monomial) -> Real:
    powers = dict(m.factors)
    for a, k in n.factors:
        powers[a] = powers.get(a, 0) + k
    exponent = m.exponent
    if n.exponent is not None:
        exponent = n.exponent if exponent is None else exponent + n.exponent
        if not exponent.terms:
            exponent = None
    return monomial(conj((m.guard, n.guard)), powers, exponent)


ROUNDED = "fl "  # how the names of functions begin that round to a float (`verifier.machine`)


def is_positive_constant(a: RealAtom) -> bool:
    """Parameters whose lower limit is above 0, logs of literals above 1 (ln 2), and roundings of products of such."""
    if a.kind == "param":
        return bool(a.args[1] > 0)
    if a.kind == "fn":
        return a.args[0].startswith(ROUNDED) and "f16" not in a.args[0] and _lowest(a.args[1]) >= NORMAL
    value = a.args[0].constant if a.kind == "log" else None
    return value is not None and value > 1


NORMAL = Fraction(1, 2**120)  # rounding to f32 keeps what is above this positive


def _lowest(x: Real) -> Fraction:
    """A lower bound of a positive multiple of a product of parameters; 0 for anything else."""
    if len(x.terms) != 1 or x.terms[0][0].guard is not TRUE or x.terms[0][0].exponent is not None:
        return Fraction(0)
    mono, c = x.terms[0]
    low = Fraction(max(c, 0))
    for a, k in mono.factors:
        least = a.args[1] if a.kind == "param" else _lowest(a.args[1]) / 2 if is_positive_constant(a) else 0
        low *= Fraction(max(least, 0)) ** k if k > 0 else 0
    return low


def power(x: Real, k: int) -> Real:
    """x^k; for k < 0 the caller owes x != 0 (an obligation of the division this comes from)."""
    if k == 0:
        return number(1)
    if k > 0:
        out = x
        for _ in range(k - 1):
            out = out * x
        return out
    if len(x.terms) == 1 and x.terms[0][0].guard is TRUE:
        mono, c = x.terms[0]
        exponent = None if mono.exponent is None else mono.exponent * number(k)
        return monomial(TRUE, {a: p * k for a, p in mono.factors}, exponent) * number(Fraction(1) / Fraction(c) ** (-k))
    choice = _choice(x)
    if choice is not None:
        condition, a, b = choice
        return select(condition, power(a, k), power(b, k))
    shared, rest = primitive(x)
    return of(real_atom("poly", rest), k) * power(shared, k)


def _choice(x: Real) -> tuple[Bool, Real, Real] | None:
    """(c, a, b) with x = a where c holds, else b."""
    for condition in dict.fromkeys(m.guard for m, _ in x.terms):
        other = set(conjuncts(negate(condition)))
        rest = [(m, k) for m, k in x.terms if m.guard is not condition]
        if condition is not TRUE and rest and all(other <= set(conjuncts(m.guard)) for m, _ in rest):
            a, b = number(0), number(0)
            for m, k in x.terms:
                left = conj(p for p in conjuncts(m.guard) if m.guard is not condition and p not in other)
                part = monomial(left, dict(m.factors), m.exponent) * number(k)
                a, b = (a + part, b) if m.guard is condition else (a, b + part)
            return condition, a, b
    return None


def primitive(x: Real) -> tuple[Real, Real]:
    """(shared, rest) with x = shared * rest: shared is one monomial without guard, and rest is the same for
    every multiple of x by such a monomial. Each atom, and each term of an exponent, goes out to the least
    power it has in any term (0 where it is absent), then the first coefficient."""
    if len(x.terms) < 2:
        return number(1), x
    powers = _least([dict(m.factors) for m, _ in x.terms])
    exponents = _least([dict(m.exponent.terms) if m.exponent is not None else {} for m, _ in x.terms])
    exponent = total(exponents.items())
    shared = monomial(TRUE, powers, exponent if exponent.terms else None)
    rest = x * monomial(TRUE, {a: -k for a, k in powers.items()}, -exponent if exponent.terms else None)
    first = rest.terms[0][1] if rest.terms else 1
    return shared * number(first), rest * number(1 / Fraction(first))


def _least(parts: list[dict[Any, Any]]) -> dict[Any, Any]:
    keys = dict.fromkeys(k for part in parts for k in part)
    least = {k: min(part.get(k, 0) for part in parts) for k in keys}
    return {k: n for k, n in least.items() if n}


def exp(x: Real) -> Real:
    from verifier.integer_reals import spread

    return number(1) if not x.terms else monomial(TRUE, {}, spread(x))


def log(x: Real) -> Real:
    """log x; the caller owes x > 0."""
    if len(x.terms) == 1 and x.terms[0][0].guard is TRUE:
        mono, c = x.terms[0]
        unsure = [f for f in mono.factors if not is_positive_constant(f[0])]
        if c > 0 and (c != 1 or mono.exponent is not None or len(mono.factors) > 1) and len(unsure) <= 1:
            if not (unsure and unsure[0][1] != 1):
                out = number(0) if c == 1 else of(real_atom("log", number(c)))
                if mono.exponent is not None:
                    out = out + mono.exponent
                for a, k in mono.factors:
                    out = out + of(real_atom("log", of(a))) * number(k)
                return out
    if x.constant == 1:
        return number(0)
    return _log_of_sum(x)


def _log_of_sum(x: Real) -> Real:
    """log x = log c + e + log a + log rest for a sum x = c a exp(e) rest, c > 0 and a positive constants."""
    shared, rest = primitive(x)
    ((mono, c),) = shared.terms
    positive = {a: k for a, k in mono.factors if is_positive_constant(a)}
    others = {a: k for a, k in mono.factors if not is_positive_constant(a)}
    out = of(real_atom("log", rest * monomial(TRUE, others, None) * number(1 if c > 0 else -1)))
    if mono.exponent is not None:
        out = out + mono.exponent
    if abs(c) != 1:
        out = out + of(real_atom("log", number(c if c > 0 else -c)))
    for a, k in positive.items():
        out = out + of(real_atom("log", of(a))) * number(k)
    return out


def ln2() -> Real:
    return of(real_atom("log", number(2)))


def function(name: str, x: Real) -> Real:
    """A named scalar function; of all but sqrt, and abs of an integer, nothing is known but that it is one."""
    if name == "abs":
        from verifier.integer_reals import absolute

        return absolute(x)
    if name == "sqrt":
        from verifier.roots import sqrt

        return sqrt(x)
    return of(real_atom("fn", name, x))


def parameter(name: str, lower: float, upper: float) -> Real:
    return of(real_atom("param", name, Fraction(lower), Fraction(upper)))


def random(seed: Int, counter: Int) -> Real:
    """A uniform number, of which only 0 <= random < 1 is known and that equal integers give equal numbers."""
    return of(real_atom("random", "random", (seed, counter)))


def read(tensor: str, index: tuple[Int, ...]) -> Real:
    return of(real_atom("read", tensor, index))


def of_int(x: Int) -> Real:
    """x as a real; an if-then-else of integers (a mask of 0 and 1) becomes one of reals."""
    value = x.constant
    if value is not None:
        return number(value)
    atom = x.atom
    if atom is not None and atom.kind == "ite":
        return select(atom.args[0], of_int(atom.args[1]), of_int(atom.args[2]))
    return of(real_atom("int", x))


def guarded(guard: Bool, x: Real) -> Real:
    """x where the guard holds, else 0."""
    if guard is TRUE:
        return x
    return total(
        (interned(("mono", g, m.factors, m.exponent), lambda s, g=g, m=m: Monomial(g, m.factors, m.exponent, s)), c)  # type: ignore[misc]
        for m, c in x.terms
        for g in (conj((m.guard, guard)),)
    )


def select(condition: Bool, a: Real, b: Real) -> Real:
    return a if a is b else guarded(condition, a) + guarded(~condition, b)


Member = tuple[tuple[Atom, ...], Bool, Real]


def maximum_of(members: Iterable[Member]) -> Real:
    """The maximum over all members whose guard holds (arbitrary if there is none: finiteness is kept
    apart). Members must already be canonical (see `verifier.sums`)."""
    merged: dict[tuple[tuple[Atom, ...], Real], Bool] = {}
    for variables, guard, body in members:
        if guard.kind != "false":
            key = (variables, body)
            merged[key] = merged[key] | guard if key in merged else guard
    kept = tuple(sorted(((v, g, b) for (v, b), g in merged.items()), key=lambda m: (m[2].serial, m[1].serial)))
    if len(kept) == 1 and not kept[0][0]:
        return kept[0][2]
    common = _common_factor([body for _, _, body in kept])
    if not common:
        return of(real_atom("max", kept))
    inverse = monomial(TRUE, {a: -k for a, k in common.items()}, None)
    return monomial(TRUE, common, None) * maximum_of((v, g, body * inverse) for v, g, body in kept)


def scaled_max(x: Real) -> tuple[RealAtom, Real] | None:
    """(m, p) when x = p * m for a maximum m and a product p of positive constants and a positive number."""
    if len(x.terms) != 1:
        return None
    mono, c = x.terms[0]
    maxima = [a for a, k in mono.factors if a.kind == "max" and k == 1]
    others = {a: k for a, k in mono.factors if a.kind != "max"}
    if c <= 0 or len(maxima) != 1 or len(others) + 1 != len(mono.factors):
        return None
    if mono.exponent is not None or mono.guard is not TRUE or not all(map(is_positive_constant, others)):
        return None
    return maxima[0], monomial(TRUE, others, None) * number(c)


def _common_factor(bodies: list[Real]) -> dict[RealAtom, int]:
    """max-pos: positive constants that every term of every body has as a factor, to what power."""
    powers = [dict(m.factors) for body in bodies for m, _ in body.terms]
    if not powers:
        return {}
    out: dict[RealAtom, int] = {}
    for a, _ in powers[0].items():
        ks = [p.get(a, 0) for p in powers]
        if is_positive_constant(a) and (min(ks) > 0 or max(ks) < 0):
            out[a] = min(ks) if min(ks) > 0 else max(ks)
    return out
