"""When is a carried float finite: exact conditions for every iteration, by induction.

A name is always finite if it starts so and its update is whenever all such names are (the largest set for
which that holds). Otherwise, if finite(x') is `finite(x) or V(n)` with V free of loop state, then finite(x)
before iteration n is `finite(x0) or V held in some earlier iteration`. With V false x is finite throughout
precisely when x0 is: so it is with what an inner loop goes on accumulating for the one around it. No guess is
involved; a name that fits neither has an unknown finiteness, which can only make obligations fail.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from verifier.binders import Substitution
from verifier.booleans import FALSE, TRUE, Bool, boolean, conj, disj
from verifier.elimination import exists
from verifier.scan import Carried, Loop
from verifier.terms import as_int, fresh, states


@dataclass(slots=True)
class Finiteness:
    """`always`: names finite at every iteration. `visible[x]`: V(n) at generic lanes. `before[x]`: the
    condition that x is finite at the start of iteration n."""

    loop: Loop
    always: set[str] = field(default_factory=set)
    visible: dict[str, Bool] = field(default_factory=dict)
    before: dict[str, Bool] = field(default_factory=dict)

    def solve(self) -> None:
        self.always = {name for name, x in self.loop.carried.items() if x.init.finite is TRUE}
        shrunk = True
        while shrunk:
            assume = self.assuming({})
            nexts = {n: assume.bool(x.next.finite) for n, x in self.loop.carried.items() if n in self.always}
            failing = {n for n, finite in nexts.items() if not self.loop.context.entails(finite)}
            self.always -= failing
            shrunk = bool(failing)
        for name in self.always:
            self.before[name] = TRUE
        for _ in self.loop.carried:
            for name, x in self.loop.carried.items():
                if name not in self.before:
                    self._growing(name, x)

    def assuming(self, values: dict[str, Bool]) -> Substitution:
        """Finiteness atoms replaced: true for names always finite, `values` for the ones given."""

        def condition(b: Bool) -> Bool | None:
            if b.kind != "state" or b.args[0] not in self.loop.carried:
                return None
            return TRUE if b.args[0] in self.always else values.get(b.args[0])

        return Substitution({}, None, condition)

    def _growing(self, name: str, x: Carried) -> None:
        others = {n: self._closed(n) for n in self.before if n != name and n not in self.always}

        def under(own: Bool) -> Bool:
            def condition(b: Bool) -> Bool | None:
                if b.kind != "state" or b.args[0] not in self.loop.carried:
                    return None
                if b.args[0] == name:
                    return own if b.args[1] == x.lanes else None
                if b.args[0] in self.always:
                    return TRUE
                other = others.get(b.args[0])
                return None if other is None else self.loop.carried[b.args[0]].at(b.args[1]).bool(other)

            return Substitution({}, None, condition).bool(x.next.finite)

        stays, grows = under(TRUE), under(FALSE)
        if not self.loop.context.entails(stays) or states(grows):
            return
        earlier = fresh("earlier")
        when = Substitution({self.loop.counter: as_int(earlier)}).bool(grows)
        seen = exists((earlier,), conj((self.loop.before(as_int(earlier), self.loop.n), when)))
        self.visible[name] = grows
        self.before[name] = disj((x.init.finite, seen))

    def _closed(self, name: str) -> Bool:
        return self.before[name]

    def throughout(self, name: str) -> bool:
        """Whether the name is finite in every iteration, or was not before the loop and then never is."""
        return name in self.always or self.visible.get(name) is FALSE

    def of(self, name: str) -> Bool:
        """Finite at the start of iteration n; an opaque boolean when that could not be solved."""
        found = self.before.get(name)
        return found if found is not None else boolean("unknown", name, self.loop.carried[name].lanes, self.loop.scope)
