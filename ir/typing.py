"""From AST to typed core: names, shapes and dtypes are settled here, once, for every consumer.

`check` accepts exactly the programs docs/language.md describes, bound to one spec, and rejects the
rest with a TypeProblem. Sound by construction: an assignment makes a new name, so a `Var` means one
value; what a loop changes is exactly its carries, because assigning any other outer name is an error.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ir import ast, requirements, tiles
from ir import program as p
from ir.ast import Span
from ir.diagnostics import Source, closest, join
from ir.dtypes import DTYPES, dtype_of
from ir.infer import CONSTANTS, OPERATIONS, TRUTH, Scope, cell, infer, mask_of
from ir.program import DType, Type
from ir.spec import Bound

_INT = Type(DType.INT)


def check(module: ast.Module, bound: Bound, source: str = "", filename: str = "<candidate>") -> p.Program:
    """The typed program of a kernel file against a bound spec. Raises TypeProblem (with excerpts from
    `source` where given)."""
    scope, meanings = _globals(bound, Source(source, filename))
    metas = []
    for meta in module.metas:
        _claim(scope, meanings, meta.name, "a meta", meta.span)
        value = infer(scope, meta.value)
        if (number := tiles.constant(value)) is None:
            hint = "metas are built from numbers, metas above and static dimensions"
            raise scope.problem("K205", f"`{meta.name}` is not an integer constant", meta.value.span, hint)
        scope.names[meta.name] = value
        metas.append((meta.name, number))
    requires = tuple(_requirement(scope, bound, r.condition) for r in module.requires)
    tensors = dict(scope.tensors)
    for scratch in module.scratch:
        _claim(scope, meanings, scratch.name, "a scratch tensor", scratch.span)
        tensors[scratch.name] = _scratch(scope, scratch)
    scope = Scope(scope.source, scope.names, tensors)
    kernels: list[p.Kernel] = []
    for kernel in module.kernels:
        if any(kernel.name == other.name for other in kernels):
            raise scope.problem("K102", f"two kernels are called `{kernel.name}`", kernel.span, "rename one")
        kernels.append(_kernel(scope, meanings, kernel))
    return p.Program(tuple(kernels), tuple(tensors.values()), tuple(metas), requires)


def _globals(bound: Bound, source: Source) -> tuple[Scope, dict[str, str]]:
    """What every kernel of this spec can name, and in words what each taken name is."""
    names: dict[str, p.Expr] = {dim.name: p.Size(dim.name, _INT) for dim in bound.dims}
    names |= {name: tiles.integer(v, ast.NOWHERE) for name, v in bound.settings if isinstance(v, int)}
    meanings = dict.fromkeys(names, "a size of the spec")
    for parameter in bound.spec.parameters:
        names[parameter.name] = p.Param(parameter.name, Type(DType.INT if parameter.integer else DType.F32))
        meanings[parameter.name] = "a parameter of the spec"
    scope = Scope(source, names, {})
    tensors: dict[str, p.Tensor] = {}
    for role, group in (("input", bound.inputs), ("output", bound.outputs)):
        for spec, dtype in group:
            shape = tuple(infer(scope, extent) for extent in spec.shape)
            tensors[spec.name] = p.Tensor(spec.name, shape, dtype, role)
            meanings[spec.name] = f"an {role} tensor of the spec"
    meanings |= dict.fromkeys([*CONSTANTS, *TRUTH], "a constant of the language")
    meanings |= dict.fromkeys(OPERATIONS, "an operation") | dict.fromkeys(DTYPES, "a dtype")
    meanings |= dict.fromkeys(keyword.kwlist, "a reserved word")
    return Scope(source, names, tensors), meanings


def _claim(scope: Scope, meanings: dict[str, str], name: str, meaning: str, span: Span) -> None:
    _check_free(scope, meanings, name, span)
    meanings[name] = meaning


def _check_free(scope: Scope, meanings: Mapping[str, str], name: str, span: Span) -> None:
    if name in meanings:
        raise scope.problem("K102", f"`{name}` is {meanings[name]}", span, "choose another name")


def _extent(scope: Scope, e: ast.Expr) -> p.Expr:
    extent = infer(scope, e)
    if extent.type.shape or not extent.type.dtype.is_int:
        hint = "extents are integer expressions over sizes and metas"
        raise scope.problem("K205", f"an extent is an integer, this is {extent.type}", e.span, hint)
    return tiles.convert(extent, DType.INT)


def _requirement(scope: Scope, bound: Bound, e: ast.Expr) -> p.Expr:
    """A truth value over sizes alone, with nothing in it that could be undefined at some size."""
    condition = infer(scope, e)
    if condition.type != Type(DType.BOOL):
        hint = "write a comparison, as in `require N % BN == 0`"
        raise scope.problem("K212", f"a requirement is a truth value, this is {condition.type}", e.span, hint)
    positive = {d.name for d in bound.dims if d.minimum >= 1}
    if (wrong := requirements.unfit(condition, positive)) is not None:
        hint = "sizes, numbers, metas and static dimensions; a divisor is a number or a size that is never 0"
        raise scope.problem("K212", "this does not belong in a requirement", wrong.span, hint)
    return condition


def _scratch(scope: Scope, scratch: ast.Scratch) -> p.Tensor:
    dtype = dtype_of(scope, scratch.dtype)
    if not dtype.is_float:
        raise scope.problem("K201", f"a scratch tensor holds {tiles.FLOATS}", scratch.dtype.span)
    return p.Tensor(scratch.name, tuple(_extent(scope, e) for e in scratch.shape), dtype, "scratch")


def _kernel(scope: Scope, meanings: Mapping[str, str], kernel: ast.Kernel) -> p.Kernel:
    if keyword.iskeyword(kernel.name):
        raise scope.problem("K102", f"`{kernel.name}` is a reserved word", kernel.span, "choose another name")
    axes = tuple(p.Axis(axis.name, _extent(scope, axis.extent)) for axis in kernel.grid)
    schedule = _schedule(scope, kernel)
    inner = Scope(scope.source, dict(scope.names), scope.tensors)
    state = _State(meanings, set(meanings) | set(_assigned(kernel.body)) | {a.name for a in kernel.grid})
    for axis in kernel.grid:
        _check_free(scope, meanings, axis.name, axis.span)
        if axis.name in state.used:
            raise scope.problem("K102", f"two axes are called `{axis.name}`", axis.span, "rename one")
        inner.names[axis.name] = p.Var(state.fresh(axis.name), _INT)
    body = tuple(_statements(state, inner, kernel.body, frozenset()))
    return p.Kernel(kernel.name, axes, schedule, body, kernel.span)


def _assigned(body: Iterable[ast.Statement]) -> Iterator[str]:
    for statement in body:
        match statement:
            case ast.Assign(name):
                yield name
            case ast.For(variable=name, body=inner):
                yield name
                yield from _assigned(inner)


# ---- statements ------------------------------------------------------------------------------


@dataclass(slots=True)
class _State:
    """Names given out in one kernel. `written` are the candidate's own, never made up."""

    meanings: Mapping[str, str]
    written: set[str]
    used: set[str] = field(default_factory=set)

    def fresh(self, name: str) -> str:
        """The name itself the first time, then name_1, name_2, ..."""
        result, count = name, 0
        while result in self.used or (count > 0 and result in self.written):
            count += 1
            result = f"{name}_{count}"
        self.used.add(result)
        return result


def _statements(
    state: _State, scope: Scope, body: tuple[ast.Statement, ...], fixed: frozenset[str]
) -> Iterator[p.Statement]:
    """Typed statements; `fixed` are the names of enclosing scopes that this loop does not carry."""
    for statement in body:
        match statement:
            case ast.Assign(name, value, comment, span):
                _check_assignable(state, scope, name, span, fixed)
                typed = infer(scope, value)
                fresh = state.fresh(name)
                # A known integer stays a number wherever it is used: it may be a tile extent.
                known = tiles.constant(typed) is not None
                scope.names[name] = typed if known else p.Var(fresh, typed.type)
                yield p.Let(fresh, typed, comment, span)
            case ast.Store():
                yield _store(scope, statement)
            case ast.For():
                yield _loop(state, scope, statement, fixed)


def _check_assignable(state: _State, scope: Scope, name: str, span: Span, fixed: frozenset[str]) -> None:
    _check_free(scope, state.meanings, name, span)
    if name in fixed:
        hint = f"list it: `for ... carry {name}:`, or choose another name"
        raise scope.problem("K103", f"the loop changes `{name}` but does not carry it", span, hint)


def _store(scope: Scope, store: ast.Store) -> p.Store:
    tensor, index = cell(scope, store.target)
    if tensor.role == "input":
        outputs = [f"`{t.name}`" for t in scope.tensors.values() if t.role != "input"]
        hint = f"a kernel stores to {join(outputs)}"
        raise scope.problem("K208", f"`{tensor.name}` is an input", store.target.span, hint)
    value = infer(scope, store.value, tensor.dtype)
    if value.type.dtype is not tensor.dtype:
        message = f"the value is {value.type.dtype.value}, `{tensor.name}` is {tensor.dtype.value}"
        raise scope.problem("K208", message, store.value.span, f"write `cast(x, {tensor.name}.dtype)`")
    mask = mask_of(scope, store.mask)
    shapes = [e.type.shape for e in index] + [value.type.shape] + ([mask.type.shape] if mask is not None else [])
    shape = tiles.common_shape(shapes, store.span, scope.source)
    mask = None if mask is None else tiles.broadcast(mask, shape)
    value = tiles.broadcast(value, shape)
    return p.Store(tensor.name, index, value, mask, store.atomic, store.comment, store.span)


def _loop(state: _State, scope: Scope, loop: ast.For, fixed: frozenset[str]) -> p.For:
    start, stop = _extent(scope, loop.start), _extent(scope, loop.stop)
    step = tiles.constant(infer(scope, loop.step))
    if step is None or step < 1:
        raise scope.problem("K205", "the step of a loop is a positive constant", loop.step.span)
    inner = Scope(scope.source, dict(scope.names), scope.tensors, dict(scope.gone))
    carried = [(name, _initial(state, scope, loop, name, fixed)) for name in loop.carried]
    renamed = {name: p.Var(state.fresh(name), init.type) for name, init in carried}
    inner.names |= renamed
    _check_free(scope, state.meanings, loop.variable, loop.span)
    if loop.variable in inner.names:
        message = f"the loop variable `{loop.variable}` already has a value"
        raise scope.problem("K102", message, loop.span, "choose another name")
    fixed = frozenset(inner.names) - set(loop.carried)
    variable = state.fresh(loop.variable)
    inner.names[loop.variable] = p.Var(variable, _INT)
    counter, first, last, body = variable, start, stop, list[p.Statement]()
    if step > 1:
        counter = state.fresh(f"{loop.variable}_step")
        first, last, value = _unit_steps(counter, start, stop, step, loop.span, scope.source)
        body.append(p.Let(variable, value, span=loop.span))
    body += _statements(state, inner, loop.body, fixed)
    carries = tuple(
        p.Carry(renamed[name].name, init, _last(inner, loop, name, init.type), init.type) for name, init in carried
    )
    scope.names |= renamed
    scope.gone |= {name: loop.span for name in inner.names if name not in scope.names}
    return p.For(counter, first, last, carries, tuple(body), loop.comment, loop.span)


def _initial(state: _State, scope: Scope, loop: ast.For, name: str, fixed: frozenset[str]) -> p.Expr:
    """The value a carried name has before the loop."""
    _check_assignable(state, scope, name, loop.span, fixed)
    if loop.carried.count(name) > 1:
        raise scope.problem("K104", f"`{name}` is carried twice", loop.span, "list it once")
    if name not in scope.names:
        hint = closest(name, set(scope.names) - set(state.meanings)) or f"write `{name} = ...` above the loop"
        raise scope.problem("K104", f"the carried name `{name}` has no value before the loop", loop.span, hint)
    return scope.names[name]


def _last(inner: Scope, loop: ast.For, name: str, type: Type) -> p.Expr:
    """The value of a carried name at the end of the body; it must have kept its type."""
    value = inner.names[name]
    if value.type != type:
        span = next((s.span for s in reversed(loop.body) if isinstance(s, ast.Assign) and s.name == name), loop.span)
        hint = f"make it {type} again with a cast, or start it as {value.type}: `full([...], x, dtype)`"
        raise inner.problem("K210", f"`{name}` is {type} before the loop and {value.type} after its body", span, hint)
    return value


def _unit_steps(
    counter: str, start: p.Expr, stop: p.Expr, step: int, span: Span, source: Source
) -> tuple[p.Expr, p.Expr, p.Expr]:
    """range(start, stop, step) as a counter from 0: its start and stop, and the user's variable."""
    zero = tiles.constant(start) == 0
    size = tiles.integer(step, span)
    length = stop if zero else tiles.binary("sub", stop, start, span, source)
    offset = tiles.binary("mul", p.Var(counter, _INT, span), size, span, source)
    value = offset if zero else tiles.binary("add", start, offset, span, source)
    return tiles.integer(0, span), tiles.ceiling_division(length, size, span, source), value


# ---- schedule --------------------------------------------------------------------------------

_CHOICES: dict[str, tuple[int, ...]] = {
    "num_warps": (1, 2, 4, 8, 16),
    "num_stages": tuple(range(1, 9)),
    "warp_specialize": (0, 1),
    "maxnreg": tuple(range(24, 256)),
    "offset_bits": (32, 64),
    "persistent": (0, 1),
    "skip_ones": (0, 1),
}
_FLAGS = ("warp_specialize", "persistent", "skip_ones")


def _schedule(scope: Scope, kernel: ast.Kernel) -> p.Schedule:
    given: dict[str, int] = {}
    for name, value in kernel.schedule:
        if name not in _CHOICES:
            hint = closest(name, _CHOICES) or f"one of {', '.join(_CHOICES)}"
            raise scope.problem("K209", f"the schedule has no `{name}`", value.span, hint)
        choices = _CHOICES[name]
        typed = infer(scope, value)
        wanted = DType.BOOL if name in _FLAGS else DType.INT
        if not isinstance(typed, p.Literal) or typed.type != Type(wanted) or int(typed.value) not in choices:
            words = "true or false" if wanted is DType.BOOL else f"{choices[0]} to {choices[-1]}"
            words = join(str(c) for c in choices) if wanted is DType.INT and len(choices) < 6 else words
            raise scope.problem("K209", f"`{name}` is {words}", value.span)
        given[name] = int(typed.value)
    default = p.Schedule()
    return p.Schedule(
        given.get("num_warps", default.num_warps),
        given.get("num_stages", default.num_stages),
        bool(given.get("warp_specialize", default.warp_specialize)),
        given.get("maxnreg"),
        given.get("offset_bits"),
        bool(given.get("persistent", default.persistent)),
        bool(given.get("skip_ones", default.skip_ones)),
    )
