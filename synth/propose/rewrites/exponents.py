"""The unit scores are held in: natural, base 2 with scale * log2(e) folded in, raw products scaled where exp2 is taken.

A kernel computes weights exp(S - pivot) as f((u * S - u * pivot) * k) with f either exp or exp2, and the unit u times
k undoing what the base does: u * k = 1 for exp, u * k = log2(e) for exp2. Changing the unit multiplies scores by a
factor, divides what else is read of the pivot by it, and rewrites the exponentials; nothing else of the kernel moves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ir.ast import Assign, Binary, Call, Element, Expr, For, Module, Name, Statement, Store
from synth.propose.emit import Names
from synth.propose.formula import children, factors, free, product, rebuild
from synth.propose.rewrites.pivots import Exponential, exponentials, sweeps
from synth.propose.rewrites.rewrite import Rewrite, Subject
from synth.propose.rewrites.straight import Place, Scope, expressions, in_straight_form, mapped, names_of, places
from synth.propose.rewrites.tiles import MINUS_INF, is_scalar, number, origin, unwrapped
from synth.propose.tree import nodes

LOG2E, LN2 = Name("log2e"), Name("ln2")
Factors = tuple[tuple[Expr, int], ...]  # a product: each factor with 1, or with -1 where it divides


# ---- the rewrites -------------------------------------------------------------------------------


def base_two(subject: Subject) -> Iterator[Module]:
    """exp becomes exp2, with log2(e) folded into the factor the scores are multiplied by anyway.

    exp(x) is exp2(x * log2(e)) on GPUs, so this saves one multiplication for each score. What leaves the loop in the
    unit of scores (the maximum in a log-sum-exp) is multiplied by ln 2 once a row.
    """
    for place, m in _pivots(subject, base2=False):
        yield from _changed(subject, place, _Change(m, ((LOG2E, 1),), "exp2"))


def base_e(subject: Subject) -> Iterator[Module]:
    """exp2 becomes exp: the inverse of folding log2(e), for a kernel whose factor cannot be folded or reads badly."""
    for place, m in _pivots(subject, base2=True):
        yield from _changed(subject, place, _Change(m, ((LN2, 1),), "exp"))


def scale_at_use(subject: Subject) -> Iterator[Module]:
    """Scores and pivot stay raw products; the scale enters where the exponential is taken (FlashAttention-3).

    Applies where scores are a product with one scalar factor, which must be positive for the maximum to commute with
    it. The difference and the scaling can then be one fused multiply-add, and the maximum runs on what dot returns.
    """
    for place, m in (*_pivots(subject, base2=False), *_pivots(subject, base2=True)):
        factor = _common_scalar(place, m)
        if factor is None:
            continue
        base2 = _base2(place, m)
        scale = factor if base2 else [*factor, (LOG2E, 1)]
        change = _Change(m, tuple((f, -n) for f, n in factor), "exp2", product(_cancelled(scale)))
        yield from _changed(subject, place, change)


def scale_folded(subject: Subject) -> Iterator[Module]:
    """The factor taken with each exponential moves into the scores: the inverse of `scale_at_use`."""
    for place, m in (*_pivots(subject, base2=False, scaled=True), *_pivots(subject, base2=True, scaled=True)):
        scaled = {e.factor for e in _exponentials(place, m)}
        if len(scaled) == 1 and (factor := scaled.pop()) is not None:
            function = "exp2" if _base2(place, m) else "exp"
            yield from _changed(subject, place, _Change(m, tuple(factors(factor)), function))


# ---- finding pivots -----------------------------------------------------------------------------


def _pivots(subject: Subject, base2: bool, scaled: bool = False) -> Iterator[tuple[Place, str]]:
    """Blocks with the pivots of their softmaxes, where all exponentials are of one base, and scaled or not."""
    for place in places(subject.module):
        for m in dict.fromkeys(s.m for s in sweeps(place)):
            found = _exponentials(place, m)
            if found and all(e.base2 == base2 and (e.factor is not None) == scaled for e in found):
                yield place, m


def _base2(place: Place, m: str) -> bool:
    return _exponentials(place, m)[0].base2


def _owned(place: Place, m: str) -> Iterator[tuple[For, Scope, frozenset[str]]]:
    """Loops of a block that compute with a pivot, and the names its values go by in each."""
    moved = {s.at: s.moved for s in sweeps(place) if s.m == m}
    for at, loop in enumerate(place.block):
        if isinstance(loop, For):
            own = {m, moved.get(at, m)}
            yield loop, place.scope(loop), frozenset(own)


def _exponentials(place: Place, m: str) -> list[Exponential]:
    return [
        e
        for loop, scope, own in _owned(place, m)
        for e in exponentials(loop, scope)
        if _named(origin(e.pivot, scope)) in own
    ]


def _named(expr: Expr) -> str:
    return expr.id if isinstance(expr, Name) else ""


def _scores(loop: For, scope: Scope, own: frozenset[str], place: Place, m: str) -> list[Expr]:
    """What stands under the maximum and left of the pivot in a loop."""
    found = [e.score for e in exponentials(loop, scope) if _named(origin(e.pivot, scope)) in own]
    for sweep in sweeps(place):
        if sweep.loop is loop and sweep.m == m:
            for top in sweep.tops:
                match scope.see(top):
                    case Call("max", (operand,)):
                        found.append(operand)
                    case _:
                        found.append(top)
    return [s for s in dict.fromkeys(found) if _named(origin(s, scope)) not in own]


def _common_scalar(place: Place, m: str) -> list[tuple[Expr, int]] | None:
    """The scalar factor every score of a softmax is multiplied by."""
    wanted: list[tuple[Expr, int]] | None = None
    for loop, scope, own in _owned(place, m):
        for score in _scores(loop, scope, own, place, m):
            parts = factors(_plain(scope.see(score), scope))
            outer = [(f, n) for f, n in parts if is_scalar(f, scope)]
            scalars = _opened(outer, scope)
            if not scalars or len(outer) == len(parts) or (wanted is not None and scalars != wanted):
                return None
            wanted = scalars
    return wanted


def _plain(expr: Expr, scope: Scope) -> Expr:
    """A masked score without its mask."""
    match scope.see(expr):
        case Call("where", (_, value, low)) if low == MINUS_INF:
            return _plain(value, scope)
        case other:
            return other


# ---- changing the unit --------------------------------------------------------------------------


@dataclass
class _Change:
    """Scores of pivot `m` times `by`; its exponentials become `function`, of the difference times `scale`."""

    m: str
    by: Factors
    function: str
    scale: Expr | None = None
    names: Names = field(default_factory=lambda: Names(set()))
    before: list[Statement] = field(default_factory=list)


def _changed(subject: Subject, place: Place, change: _Change) -> Iterator[Module]:
    change = replace(change, names=names_of(subject), before=[])
    block: list[Statement] = []
    last = max(k for k, s in enumerate(place.block) if isinstance(s, For) and _computes(place, s, change.m))
    for at, statement in enumerate(place.block):
        if isinstance(statement, For) and _computes(place, statement, change.m):
            loop = _loop(place, statement, change)
            if loop is None:
                return
            block += [*(s for s in change.before if s not in block), loop]
        elif at > last or _reads_final(place, at, change.m):
            block.append(_outside(place, statement, change))
        else:
            block.append(statement)
    start = place.scope().starts.get(change.m)
    if isinstance(start, Call) and start.function == "full" and start.args[1] == MINUS_INF:
        yield place.put(tuple(block))


def _computes(place: Place, loop: For, m: str) -> bool:
    return any(own_loop is loop and (m in loop.carried or any(_named(origin(e.pivot, scope)) in own
               for e in exponentials(loop, scope))) for own_loop, scope, own in _owned(place, m))  # fmt: skip


def _reads_final(place: Place, at: int, m: str) -> bool:
    """Whether a statement stands behind the first loop that carries the pivot."""
    return any(isinstance(s, For) and m in s.carried for s in place.block[:at])


def _loop(place: Place, loop: For, change: _Change) -> For | None:
    """A loop in the new unit; None where a score or the pivot has another use that would change its meaning."""
    found = next((scope, own) for one, scope, own in _owned(place, change.m) if one is loop)
    scope, own = found
    scores = _scores(loop, scope, own, place, change.m)
    calls = {e.call: e for e in exponentials(loop, scope) if _named(origin(e.pivot, scope)) in own}
    defined = {s.name: s for s in loop.body if isinstance(s, Assign) and s.name not in loop.carried}
    values: dict[str, Expr] = {}
    direct: dict[Expr, Expr] = {}
    todo = scores
    while todo:
        score = todo.pop()
        match score:
            case Name(id) if id in defined and id not in values:
                inner = defined[id].value
                match inner:
                    case Call("where", (_, Name() as value, low)) if low == MINUS_INF:
                        values[id] = inner
                        todo.append(value)
                    case Name():
                        values[id] = inner
                        todo.append(inner)
                    case _:
                        values[id] = _times(inner, scope, change)
            case Name(id) if id in values:
                pass
            case _:
                direct[score] = _times(score, scope, change)
    if not _only_as_scores(loop, scope, set(values), own, calls):
        return None

    def one(node: Expr) -> Expr:
        if node in calls:
            return _exponential(calls[node], direct, change)
        match node:
            case Call("max", (operand,)) if operand in direct and dict(node.keywords).get("axis") is not None:
                return replace(node, args=(direct[operand],))
            case _:
                return rebuild(node, one)

    body: list[Statement] = []
    for statement in loop.body:
        if isinstance(statement, Assign) and statement.name in values:
            statement = replace(statement, value=values[statement.name])
        elif isinstance(statement, Assign) and _is_difference(statement.name, calls, scope):
            inner = statement.value
            statement = replace(statement, value=_without_factor(inner, scope))
        body.append(mapped(statement, one))
    return replace(loop, body=tuple(body))


def _is_difference(name: str, calls: dict[Call, Exponential], scope: Scope) -> bool:
    return any(call.args[0] == Name(name) and calls[call].factor is not None for call in calls)


def _without_factor(expr: Expr, scope: Scope) -> Expr:
    match expr:
        case Binary("*", left, right):
            return left if is_scalar(right, scope) else right
        case _:
            return expr


def _exponential(found: Exponential, direct: dict[Expr, Expr], change: _Change) -> Expr:
    """The exponential of the same weight in the new unit."""
    argument = found.call.args[0]
    if isinstance(argument, Name):  # its definition has lost its factor, or had none
        inner: Expr = argument
    else:
        inner = Binary("-", direct.get(found.score, found.score), found.pivot)
    return Call(change.function, (inner if change.scale is None else Binary("*", inner, change.scale),))


def _only_as_scores(
    loop: For, scope: Scope, names: set[str], own: frozenset[str], calls: dict[Call, Exponential]
) -> bool:
    """Whether renamed scores and the pivot occur nowhere but under maxima, masks, guards and these exponentials."""
    bad = False

    def look(node: Expr) -> None:
        nonlocal bad
        match node:
            case Call() if node in calls:
                return
            case Call("max" | "maximum"):
                for argument in node.args:
                    if _named(unwrapped(argument)) not in names | own:
                        look(argument)
            case Call("where", (Binary("==" | ">" | "!=", _, low), _, _)) if low == MINUS_INF:
                return
            case Call("where", (condition, Name(id), low)) if low == MINUS_INF and id in names:
                look(condition)
            case Name(id):
                bad = bad or id in names
            case _:
                for child in children(node):
                    look(child)

    differences = {call.args[0].id for call in calls if isinstance(call.args[0], Name)}
    for statement in loop.body:
        match statement:
            case Assign(name, Name()) if name in loop.carried or name in names:
                pass
            case Assign(name) if name in differences:
                pass
            case For() | Store():
                for expr in expressions(statement):
                    look(expr)
            case Assign(value=value):
                look(value)
    return not bad


# ---- products -----------------------------------------------------------------------------------


def _times(expr: Expr, scope: Scope, change: _Change) -> Expr:
    """A score in the new unit: scalar factors are multiplied together, masks stay."""
    match expr:
        case Call("where", (condition, value, low)) if low == MINUS_INF:
            return Call("where", (condition, _times(value, scope, change), low))
        case Binary("+", left, right) if any(_is_mask(side, scope) for side in (left, right)):
            left, right = (s if _is_mask(s, scope) else _times(s, scope, change) for s in (left, right))
            return Binary("+", left, right)
        case _:
            parts = factors(expr)
            scalars = [(f, n) for f, n in parts if is_scalar(f, scope)]
            tile = product([p for p in parts if p not in scalars])
            scale = _cancelled([*_opened(scalars, scope), *change.by])
            return tile if not scale else Binary("*", tile, _outer(product(scale), scope, change))


def _is_mask(expr: Expr, scope: Scope) -> bool:
    match scope.see(expr):
        case Call("where", (_, value, low)) if low == MINUS_INF:
            return value == number(0) or value == number(0, False)
        case _:
            return False


def _outer(scale: Expr, scope: Scope, change: _Change) -> Expr:
    """A product of scalars that the loop does not change has a name, before the loop."""
    if isinstance(scale, Name) or any(isinstance(n, Element) for n in nodes(scale)):
        return scale
    known = next((s.name for s in change.before if isinstance(s, Assign) and s.value == scale), None)
    if known is None:
        known = change.names.fresh("scale_log2" if "log2e" in free(scale) else "factor")
        change.before.append(Assign(known, scale))
    return Name(known)


def _opened(parts: list[tuple[Expr, int]], scope: Scope) -> list[tuple[Expr, int]]:
    """Scalar factors, with a name for a product of the loop's constants written out."""
    found: list[tuple[Expr, int]] = []
    for part, sign in parts:
        seen = scope.see(part)
        if isinstance(seen, Binary) and seen.op in "*/":
            found += [(f, n * sign) for f, n in _opened(factors(seen), scope)]
        else:
            found.append((part, sign))
    return found


def _cancelled(parts: list[tuple[Expr, int]]) -> list[tuple[Expr, int]]:
    """Without pairs that make 1."""
    left: list[tuple[Expr, int]] = []
    for part, sign in parts:
        inverse = [(part, -sign), *([(LN2 if part == LOG2E else LOG2E, sign)] if part in (LOG2E, LN2) else [])]
        match = next((p for p in inverse if p in left), None)
        if match is not None:
            left.remove(match)
        else:
            left.append((part, sign))
    return left


def _outside(place: Place, statement: Statement, change: _Change) -> Statement:
    """After the loops the pivot is divided by the factor, wherever it is read as a number."""
    scope = place.scope()
    guards = {n for n in scope.values if origin(Name(n), scope) == Name(change.m)}
    if isinstance(statement, Assign) and statement.name in guards:
        return statement
    inverse = [(LN2 if f == LOG2E else LOG2E, n) if f in (LOG2E, LN2) else (f, -n) for f, n in change.by]

    def one(node: Expr) -> Expr:
        match node:
            case Binary("==" | ">" | "!=", _, low) if low == MINUS_INF:
                return node
            case Binary("*", left, right):
                parts = factors(node)
                pivots = [(f, n) for f, n in parts if _named(unwrapped(f)) in guards | {change.m}]
                if len(pivots) == 1 and all(is_scalar(f, scope) for f, _ in parts if (f, _) not in pivots):
                    others = _opened([p for p in parts if p not in pivots], scope)
                    return product([*pivots, *_cancelled([*others, *inverse])])
                return Binary("*", one(left), one(right))
            case Name(id) if id in guards | {change.m}:
                return product([(node, 1), *_cancelled(inverse)])
            case _:
                return rebuild(node, one)

    return mapped(statement, one)


REWRITES = (
    Rewrite("base-two", in_straight_form(base_two)),
    Rewrite("base-e", in_straight_form(base_e)),
    Rewrite("scale-at-use", in_straight_form(scale_at_use)),
    Rewrite("scale-folded", in_straight_form(scale_folded)),
)
