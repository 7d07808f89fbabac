"""What the names of a spec's formulas mean, and whether they are used rightly.

A formula is an integer, a real or a truth value; integers count as reals where a real is needed, never
the other way. Indices, bounds and sizes are integers, conditions are truth values. Whatever is wrong
is an error at its place, so that the evaluator and the prover only ever see well-formed definitions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from ir import ast
from ir.ast import Span
from ir.binding import rebuild
from ir.builder import children
from ir.diagnostics import Source, SpecProblem, closest, join

_REAL_FUNCTIONS = ("exp", "log", "sqrt", "tanh", "sigmoid")
_OF_INTEGERS = ("cdiv", "random")
FUNCTIONS = (*_REAL_FUNCTIONS, "abs", "min", "max", *_OF_INTEGERS, "grad")
CONSTANTS = ("log2e", "ln2", "inf")


class Sort(Enum):
    INTEGER = "an integer"
    REAL = "a real"
    TRUTH = "a truth value"


@dataclass(slots=True)
class Names:
    """Everything formulas of one spec may name. `sorts` grows as definitions are checked."""

    source: Source
    sizes: frozenset[str]
    parameters: Mapping[str, Sort] = field(default_factory=dict)
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)
    integers: frozenset[str] = frozenset()
    definitions: Mapping[str, ast.Definition] = field(default_factory=dict)
    sorts: dict[str, Sort] = field(default_factory=dict)

    def problem(self, code: str, message: str, span: Span, hint: str = "") -> SpecProblem:
        return SpecProblem(code, message, span, self.source, hint)


def check_definitions(names: Names) -> None:
    """Check every definition, those it uses before it. Raises SpecProblem."""
    for definition in in_order(names):
        names.sorts[definition.name] = _sort(names, definition.value, frozenset(definition.parameters))


def check_formula(names: Names, e: ast.Expr, wanted: Sort) -> None:
    """Check a lone formula over sizes, such as a tensor extent, a requirement or a default."""
    _expect(names, e, frozenset(), wanted)


def settled(e: ast.Expr, values: Mapping[str, str | int]) -> ast.Expr:
    """A formula with the options put in: their comparisons decided, and whatever that decides left out."""
    match e:
        case ast.Binary("==" | "!=", ast.Name(option), ast.Text(text)) if option in values:
            return ast.Name("true" if (values[option] == text) == (e.op == "==") else "false")
        case ast.Binary("==" | "!=", ast.Text() as text, ast.Name() as option):
            return settled(replace(e, left=option, right=text), values)
    e = rebuild(e, lambda x: settled(x, values))
    match e:
        case ast.If(ast.Name("true"), then, _):
            return then
        case ast.If(ast.Name("false"), _, otherwise):
            return otherwise
        case ast.Unary("not", ast.Name("true" | "false" as truth)):
            return ast.Name("false" if truth == "true" else "true")
        case ast.Binary("and" | "or", ast.Name("true" | "false" as truth), x):
            return x if (truth == "true") == (e.op == "and") else ast.Name(truth)
        case ast.Binary("and" | "or", x, ast.Name("true" | "false" as truth)):
            return x if (truth == "true") == (e.op == "and") else ast.Name(truth)
        case ast.Binary("+", ast.Number(value, False), x) | ast.Binary("+", x, ast.Number(value, False)) if value == 0:
            return x
        case ast.Big():
            return replace(e, conditions=tuple(c for c in e.conditions if c != ast.Name("true")))
        case _:
            return e


def in_order(names: Names) -> list[ast.Definition]:
    """Definitions such that each uses earlier ones only; without recursion, for chains may be long."""
    waiting = {name: _used(names, definition) for name, definition in names.definitions.items()}
    ordered: list[ast.Definition] = []
    while waiting:
        ready = [name for name, used in waiting.items() if not used & waiting.keys()]
        if not ready:
            raise _cycle(names, waiting)
        ordered += [names.definitions[name] for name in ready]
        waiting = {name: used for name, used in waiting.items() if name not in ready}
    return ordered


def _used(names: Names, definition: ast.Definition) -> set[str]:
    found: set[str] = set()
    stack = [definition.value]
    while stack:
        node = stack.pop()
        if isinstance(node, (ast.Name, ast.Element)):
            name = node.id if isinstance(node, ast.Name) else node.name
            found |= {name} & names.definitions.keys()
        stack += children(node)
    return found


def _cycle(names: Names, waiting: dict[str, set[str]]) -> SpecProblem:
    """Follow uses from any definition that waits until one comes again."""
    chain = [next(iter(waiting))]
    while chain.count(chain[-1]) < 2:
        chain.append(min(waiting[chain[-1]] & waiting.keys()))
    chain = chain[chain.index(chain[-1]) :]
    hint = "recurrences are written with `sum` or `max`"
    message = f"`{chain[0]}` is defined by itself: {' -> '.join(chain)}"
    return names.problem("S009", message, names.definitions[chain[0]].span, hint)


def _expect(names: Names, e: ast.Expr, local: frozenset[str], wanted: Sort) -> Sort:
    sort = _sort(names, e, local)
    if sort is wanted or (wanted is Sort.REAL and sort is Sort.INTEGER):
        return sort
    hints = {
        Sort.INTEGER: "`//` and `cdiv` divide integers; `/` always gives a real",
        Sort.REAL: "write `if ... then 1 else 0` to turn a condition into a number",
        Sort.TRUTH: "write a comparison",
    }
    raise names.problem("S008", f"{wanted.value} is needed, this is {sort.value}", e.span, hints[wanted])


def _join(a: Sort, b: Sort) -> Sort:
    return Sort.INTEGER if a is b is Sort.INTEGER else Sort.REAL


def _sort(names: Names, e: ast.Expr, local: frozenset[str]) -> Sort:
    match e:
        case ast.Number(_, is_float):
            return Sort.REAL if is_float else Sort.INTEGER
        case ast.Name():
            return _name_sort(names, e, local)
        case ast.Unary("not", operand):
            return _expect(names, operand, local, Sort.TRUTH)
        case ast.Unary(_, operand):
            return _expect(names, operand, local, Sort.REAL)
        case ast.Binary("and" | "or", left, right):
            _expect(names, left, local, Sort.TRUTH)
            return _expect(names, right, local, Sort.TRUTH)
        case ast.Binary(op, ast.Name(option), ast.Text() as text):
            return _choice_sort(names, op, option, text)
        case ast.Binary(op, ast.Text() as text, ast.Name(option)):
            return _choice_sort(names, op, option, text)
        case ast.Binary():
            return _binary_sort(names, e, local)
        case ast.Call():
            return _call_sort(names, e, local)
        case ast.Element():
            return _element_sort(names, e, local)
        case ast.If(condition, then, otherwise):
            _expect(names, condition, local, Sort.TRUTH)
            sort = _sort(names, then, local)
            if sort is Sort.TRUTH:
                return _expect(names, otherwise, local, Sort.TRUTH)
            return _join(sort, _expect(names, otherwise, local, Sort.REAL))
        case ast.Big():
            return _big_sort(names, e, local)
        case ast.Text():
            hint = 'a string is compared with an option: `causal == "none"`'
            raise names.problem("S008", "a string is not a value", e.span, hint)
        case _:
            raise names.problem("S008", "this belongs in a kernel, not in a formula", e.span)


def _name_sort(names: Names, e: ast.Name, local: frozenset[str]) -> Sort:
    name = e.id
    if name in local or name in names.sizes:
        return Sort.INTEGER
    if name in names.parameters:
        return names.parameters[name]
    if name in CONSTANTS:
        return Sort.REAL
    if name in ("true", "false"):
        return Sort.TRUTH
    if name in names.options:
        hint = f'compare it: `{name} == "{names.options[name][0]}"`'
        raise names.problem("S008", f"the option `{name}` is not a value", e.span, hint)
    if name in names.ranks:
        raise names.problem("S007", f"`{name}` is a tensor: it needs {names.ranks[name]} index(es)", e.span)
    if name in names.definitions:
        if count := len(names.definitions[name].parameters):
            raise names.problem("S007", f"`{name}` needs {count} index(es)", e.span)
        return names.sorts[name]
    raise names.problem("S006", f"`{name}` is not defined", e.span, _suggest(names, name, local))


def _suggest(names: Names, name: str, local: frozenset[str]) -> str:
    known = [*local, *names.sizes, *names.parameters, *names.options, *names.ranks, *names.definitions]
    return closest(name, [*known, *CONSTANTS, "true", "false"])


def _choice_sort(names: Names, op: str, option: str, text: ast.Text) -> Sort:
    if option not in names.options:
        hint = closest(option, names.options) or f"options: {', '.join(names.options) or 'none'}"
        raise names.problem("S006", f"`{option}` is not an option", text.span, hint)
    if text.value not in names.options[option]:
        hint = closest(text.value, names.options[option]) or f"choices: {', '.join(names.options[option])}"
        raise names.problem("S006", f'`{option}` has no choice "{text.value}"', text.span, hint)
    if op not in ("==", "!="):
        raise names.problem("S008", f"options are compared by == or !=, not `{op}`", text.span)
    return Sort.TRUTH


def _binary_sort(names: Names, e: ast.Binary, local: frozenset[str]) -> Sort:
    wanted = Sort.INTEGER if e.op in ("//", "%") else Sort.REAL
    left, right = _expect(names, e.left, local, wanted), _expect(names, e.right, local, wanted)
    if e.op in ("<", "<=", ">", ">=", "==", "!="):
        return Sort.TRUTH
    return Sort.REAL if e.op == "/" else _join(left, right)


def _call_sort(names: Names, e: ast.Call, local: frozenset[str]) -> Sort:
    name = e.function
    if name not in FUNCTIONS:
        if name == "sum":
            hint = "write `sum[j < N](body)`"
        elif name in names.definitions or name in names.ranks:
            hint = f"indices are in square brackets: `{name}[...]`"
        else:
            hint = closest(name, FUNCTIONS) or f"functions: {join(FUNCTIONS, 'and')}"
        raise names.problem("S006", f"there is no function `{name}`", e.span, hint)
    if name == "grad":
        return _grad_sort(names, e)
    arity = 2 if name in ("min", "max", *_OF_INTEGERS) else 1
    if len(e.args) != arity or e.keywords:
        hint = "over an index write `max[j < N](body)`" if name == "max" else ""
        raise names.problem("S007", f"`{name}` takes {arity} argument(s), not {len(e.args)}", e.span, hint)
    wanted = Sort.INTEGER if name in _OF_INTEGERS else Sort.REAL
    sorts = [_expect(names, argument, local, wanted) for argument in e.args]
    return Sort.REAL if name in (*_REAL_FUNCTIONS, "random") else _join(sorts[0], sorts[-1])


def _grad_sort(names: Names, e: ast.Call) -> Sort:
    """grad(Y, X, dY); ir/gradient.py writes it out, and says there what it means."""
    form = "write `grad(Y, X, dY)`: Y a definition, X an input, dY weights of Y's shape"
    match e.args:
        case (ast.Name() as y, ast.Name() as x, ast.Name() as dy) if not e.keywords:
            pass
        case _:
            raise names.problem("S007", "`grad` takes three names", e.span, form)
    if y.id not in names.definitions or names.sorts[y.id] is Sort.TRUTH:
        hint = closest(y.id, names.definitions) or form
        raise names.problem("S006", f"`{y.id}` is not a definition of reals", y.span, hint)
    if x.id not in names.ranks:
        raise names.problem("S006", f"`{x.id}` is not an input", x.span, closest(x.id, names.ranks) or form)
    if found := [name for name in (x, dy) if name.id in names.integers]:
        raise names.problem("S008", f"`{found[0].id}` holds integers", found[0].span, form)
    if dy.id in names.ranks:
        rank = names.ranks[dy.id]
    elif dy.id in names.definitions and names.sorts[dy.id] is not Sort.TRUTH:
        rank = len(names.definitions[dy.id].parameters)
    else:
        hint = closest(dy.id, [*names.ranks, *names.definitions]) or form
        raise names.problem("S006", f"`{dy.id}` is neither an input nor a definition of reals", dy.span, hint)
    if rank != (wanted := len(names.definitions[y.id].parameters)):
        message = f"`{dy.id}` takes {rank} index(es), `{y.id}` {wanted}"
        raise names.problem("S007", message, dy.span, "they have the same shape")
    return Sort.REAL


def _element_sort(names: Names, e: ast.Element, local: frozenset[str]) -> Sort:
    if e.name in names.ranks:
        rank = names.ranks[e.name]
    elif e.name in names.definitions:
        rank = len(names.definitions[e.name].parameters)
    else:
        message = f"`{e.name}` is neither a tensor nor a definition"
        raise names.problem("S006", message, e.span, _suggest(names, e.name, local))
    if len(e.index) != rank:
        raise names.problem("S007", f"`{e.name}` takes {rank} index(es), not {len(e.index)}", e.span)
    for index in e.index:
        _expect(names, index, local, Sort.INTEGER)
    if e.name in names.ranks:
        return Sort.INTEGER if e.name in names.integers else Sort.REAL
    return names.sorts[e.name]


def _big_sort(names: Names, e: ast.Big, local: frozenset[str]) -> Sort:
    _expect(names, e.bound, local, Sort.INTEGER)
    if e.variable in local or meaning_of(names, e.variable):
        raise names.problem("S005", f"`{e.variable}` is taken", e.span, "choose another index name")
    inner = local | {e.variable}
    for condition in e.conditions:
        _expect(names, condition, inner, Sort.TRUTH)
    return _expect(names, e.body, inner, Sort.REAL)


def meaning_of(names: Names, name: str) -> str:
    """What a name already is, in words; empty when it is free."""
    for group, meaning in (
        (names.sizes, "a size"),
        (names.parameters, "a parameter"),
        (names.options, "an option"),
        (names.ranks, "a tensor"),
        (names.definitions, "a definition"),
        ((*CONSTANTS, "true", "false"), "a constant"),
        (FUNCTIONS, "a function"),
    ):
        if name in group:
            return meaning
    return ""
