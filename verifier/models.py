"""Models of earlier queries, tried on the next one before a solver is asked.

Most queries of a proof have a model, and the same few models serve nearly all of them. Values are put into our own
terms, three-valued: None where a term has no value of its own here (a cell of an integer input, a quantifier, a
division by what is not positive). Only Z3's `unsat` ever shows anything, so a fault here could leave a kernel
unproved, but never prove one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import z3

from verifier.booleans import Bool
from verifier.integers import Atom, Int

KEPT = 12


class Model:
    """Values of integer symbols and of conditions opaque to the solver. What is not named is free: a symbol is then
    the value nearest zero that its static bounds admit, a condition false."""

    __slots__ = ("values", "memo")

    def __init__(self, values: dict[str, int]) -> None:
        self.values = values
        self.memo: dict[Any, Any] = {}

    def satisfies(self, facts: Sequence[Bool]) -> bool:
        """Whether every fact is known to hold; the last ones, which are new in a query, are tried first."""
        return all(self.truth(fact) for fact in reversed(facts))

    def assume(self, facts: Iterable[Bool]) -> None:
        """What a solver found true in this model, where it cannot be seen from the values."""
        self.memo.update({fact: True for fact in facts if self.truth(fact) is None})

    def truth(self, b: Bool) -> bool | None:
        if b in self.memo:
            return self.memo[b]  # type: ignore[no-any-return]
        found = self._truth(b)
        self.memo[b] = found
        return found

    def _truth(self, b: Bool) -> bool | None:
        match b.kind:
            case "ge" | "eq":
                value = self.integer(b.args[0])
                return None if value is None else value >= 0 if b.kind == "ge" else value == 0
            case "not":
                inner = self.truth(b.args[0])
                return None if inner is None else not inner
            case "and" | "or":
                settles = b.kind == "or"
                parts = [self.truth(part) for part in b.args]
                return settles if settles in parts else None if None in parts else not settles
            case "true" | "false":
                return b.kind == "true"
            case "exists":
                return None
            case _:
                return bool(self.values.get(f"{b.kind}!{b.serial}", False))

    def integer(self, x: Int) -> int | None:
        if x in self.memo:
            return self.memo[x]  # type: ignore[no-any-return]
        total: int | None = 0
        for power, coefficient in x.terms:
            for atom in power:
                value = self.atom(atom)
                if value is None:
                    total = None
                    break
                coefficient *= value
            if total is None:
                break
            total += coefficient
        self.memo[x] = total
        return total

    def atom(self, a: Atom) -> int | None:
        if a in self.memo:
            return self.memo[a]  # type: ignore[no-any-return]
        found = self._symbol(a) if a.kind == "sym" else self._compound(a)
        self.memo[a] = found
        return found

    def _symbol(self, a: Atom) -> int | None:
        low, high = a.low, a.high
        value = self.values.get(a.name)
        if value is None:
            value = low if low is not None and low > 0 else high if high is not None and high < 0 else 0
            self.values[a.name] = value
        return value if (low is None or low <= value) and (high is None or value <= high) else None

    def _compound(self, a: Atom) -> int | None:
        if a.kind == "cell":
            return None
        if a.kind == "ite":
            chosen = self.truth(a.args[0])
            return None if chosen is None else self.integer(a.args[1 if chosen else 2])
        x, y = self.integer(a.args[0]), self.integer(a.args[1])
        if x is None or y is None:
            return None
        match a.kind:
            case "min":
                return min(x, y)
            case "max":
                return max(x, y)
            case _ if y <= 0:
                return None
            case "div":
                return x // y
            case _:
                return x % y


class Models:
    """The models seen last in one proof, those that served last first."""

    def __init__(self) -> None:
        self.kept: list[Model] = []

    def satisfy(self, facts: Sequence[Bool]) -> bool:
        """Whether some model seen before satisfies the facts."""
        for k, model in enumerate(self.kept):
            if model.satisfies(facts):
                self.kept.insert(0, self.kept.pop(k))
                return True
        return False

    def add(self, model: Model) -> None:
        self.kept.insert(0, model)
        del self.kept[KEPT:]


def model_of(solver: z3.Solver) -> Model:
    """Of a solver that just answered `sat`."""
    found = solver.model()
    values: dict[str, int] = {}
    for symbol in found.decls():
        value = found[symbol]
        if isinstance(value, z3.IntNumRef):
            values[symbol.name()] = value.as_long()
        elif isinstance(value, z3.BoolRef):
            values[symbol.name()] = int(z3.is_true(value))
    return Model(values)
