"""What a counterexample shows beyond its one cell: it is run again, and wrong cells are compared with right ones.

Everything said here is a fact of that run: which cells are wrong, what they have in common, how the wrong value
relates to the right one, which outputs are right, how many keys the row sees. A relation that does not hold of every
wrong cell is not mentioned, and a run that does not show the fault again says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ir.ast import Expr
from ir.evaluate import EvaluationError, evaluate, tensor_shape
from ir.inputs import generate, parse_description
from ir.interpret import InterpretError, Mode, interpret
from ir.loader import bind
from ir.program import Program
from ir.spec import Bound
from synth.bench.roofline import integer, is_plain
from synth.propose import NothingToPropose
from synth.propose.formula import free
from synth.propose.structure import Group, Nest, nests
from verifier.verdict import Counterexample

Array = NDArray[Any]
FUEL = 2**27
CELLS = 2**22  # of all tensors: a width fault is found at sizes that no memory holds
ELSEWHERE = ("bounds", "width", "write-write", "read-write")  # faults of an access, whatever the values are
TOLERANCE = 1e-4  # as coarse as the coarsest the refutation used
EQUAL = 1e-7  # of two numbers that are called the same


@dataclass(frozen=True, slots=True)
class Run:
    """Tensors of the counterexample's run and of the spec, and where they differ."""

    actual: Mapping[str, Array]
    expected: Mapping[str, Array]
    wrong: Mapping[str, Array]


def facts(found: Counterexample, program: Program, bound: Bound) -> list[str]:
    """Sentences about a counterexample with a wrong, undefined or missing value; none where there is nothing to add."""
    run = _again(found, program, bound)
    if run is None:
        return []
    tensor, wrong = found.tensor, run.wrong[found.tensor]
    names = _axes(tensor, wrong.shape, bound)
    seen = _visible(found, bound)
    return [
        *_common(tensor, wrong, names),
        *_rows(wrong, names, seen),
        *_relation(run, found, bound),
        *_another_option(run, found, bound),
        *_others(run, tensor),
    ]


def _again(found: Counterexample, program: Program, bound: Bound) -> Run | None:
    sizes, parameters = dict(found.sizes), dict(found.parameters)
    cells = sum(math.prod(tensor_shape(bound, t, sizes)) for t, _ in (*bound.inputs, *bound.outputs))
    if found.actual in ELSEWHERE or cells > CELLS:
        return None
    try:
        inputs = generate(*parse_description(found.inputs), bound, sizes, parameters)
        expected = {k: np.asarray(v) for k, v in evaluate(bound, sizes, parameters, inputs).items()}
        for mode in (Mode.EXACT, Mode.MACHINE):
            actual = interpret(program, bound, sizes, parameters, inputs, mode, fuel=FUEL).tensors
            wrong = {k: _differs(np.asarray(actual[k]), v) for k, v in expected.items() if k in actual}
            if found.tensor in wrong and wrong[found.tensor].ndim and wrong[found.tensor][found.cell]:
                return Run({k: np.asarray(v) for k, v in actual.items()}, expected, wrong)
    except (InterpretError, EvaluationError, IndexError):
        return None  # too large to run here, or no cell of a tensor
    return None


def _differs(actual: Array, expected: Array) -> Array:
    """Cells that disagree; those where the spec itself is undefined do not count."""
    finite = np.abs(expected[np.isfinite(expected)])
    scale = float(finite.max(initial=0.0)) or 1e-12
    with np.errstate(invalid="ignore"):
        close = np.abs(actual - expected) <= TOLERANCE * (np.abs(expected) + scale)
    return np.asarray(~(close | (actual == expected) | np.isnan(expected)))


def _axes(tensor: str, shape: tuple[int, ...], bound: Bound) -> tuple[str, ...]:
    """What the spec calls the indices of an output."""
    names = next((d.parameters for d in bound.spec.definitions if d.name == tensor), ())
    return names if len(names) == len(shape) else tuple(f"axis {k}" for k in range(len(shape)))


# ---- what the wrong cells have in common ------------------------------------------------------------


def _common(tensor: str, wrong: Array, names: tuple[str, ...]) -> Iterator[str]:
    count = int(wrong.sum())
    if count == wrong.size:
        yield f"every cell of {tensor} is wrong ({count})"
        return
    indices = [np.unique(k) for k in np.nonzero(wrong)]
    told = [_set(name, k, n) for name, k, n in zip(names, indices, wrong.shape, strict=True)]
    where = " and ".join(text for text in told if text)
    if where and None not in told and count == math.prod(len(k) for k in indices):
        yield f"wrong are exactly the cells of {tensor} with {where} ({count} of {wrong.size})"
    else:
        yield f"{count} of {wrong.size} cells of {tensor} are wrong{', all with ' + where if where else ''}"


def _set(name: str, indices: Array, extent: int) -> str | None:
    """A set of indices in words; empty when it is all of them, None when it takes too many words."""
    first, last = int(indices[0]), int(indices[-1])
    missing = np.setdiff1d(np.arange(extent), indices)
    if not missing.size:
        return ""
    if len(indices) == 1:
        return f"{name} = {first}"
    if len(indices) == last - first + 1:
        return (
            f"{name} >= {first}"
            if last == extent - 1
            else f"{first} <= {name} <= {last}"
            if first
            else f"{name} <= {last}"
        )
    if len(missing) <= 3:
        return f"{name} other than {', '.join(map(str, missing))}"
    for step in range(2, 9):
        residues = np.unique(indices % step)
        if len(residues) == 1 and len(indices) == len(range(int(residues[0]), extent, step)):
            return f"{name} % {step} = {int(residues[0])}"
    return f"{name} in {{{', '.join(map(str, indices))}}}" if len(indices) <= 6 else None


# ---- rows and the keys they see ---------------------------------------------------------------------


def _visible(found: Counterexample, bound: Bound) -> tuple[str, Array] | None:
    """The output's row index and, for each row at this cell's other indices, how many keys it sees; None where the
    spec has no such structure or its conditions depend on more than sizes and indices."""
    try:
        structure = nests(bound)
    except NothingToPropose:
        return None
    for nest in structure:
        for output in nest.outputs:
            if output.tensor.name == found.tensor and len(nest.groups) == 1 and nest.row[0] in output.index:
                counts = _counted(nest, nest.groups[0], dict(zip(output.index, found.cell, strict=True)), found, bound)
                return None if counts is None else (nest.row[0], counts)
    return None


def _counted(nest: Nest, group: Group, cell: Mapping[str, int], found: Counterexample, bound: Bound) -> Array | None:
    values: dict[str, Any] = {**dict(found.sizes), **{k: v for k, v in bound.settings if isinstance(v, int)}, **cell}
    extents: tuple[Expr, Expr] = (nest.row[1], group.extent)
    if any(free(e) - values.keys() or not is_plain(e) for e in extents):
        return None
    rows, keys = (np.arange(int(integer(e, values))) for e in extents)
    at = values | {nest.row[0]: rows[:, None], group.key: keys[None, :]}
    if any(free(c) - at.keys() or not is_plain(c) for c in group.sees):
        return None
    sees = np.ones((rows.size, keys.size), dtype=np.bool_)
    for condition in group.sees:
        sees = sees & integer(condition, at)
    return np.asarray(sees.sum(axis=1))


def _rows(wrong: Array, names: tuple[str, ...], seen: tuple[str, Array] | None) -> Iterator[str]:
    """How wrong and right rows differ in the number of keys they see."""
    if seen is None or seen[0] not in names:
        return
    row, counts = seen
    axis = names.index(row)
    bad = np.any(np.moveaxis(wrong, axis, 0).reshape(counts.size, -1), axis=1)
    few, many = (int(f(counts[bad])) for f in (np.min, np.max))
    if counts.min() == counts.max():
        yield f"every row sees {few} keys in this run"
    elif many == 0:
        none_right = bool(np.all(bad[counts == 0]))
        yield f"{'the wrong rows are exactly' if none_right else 'all wrong rows are among'} those that see no key"
    elif bad.all():
        yield f"the rows see {few} to {many} keys each"
    elif few > int(counts[~bad].max()):
        yield f"rows that see {few} keys or more are wrong, rows that see {int(counts[~bad].max())} or fewer are right"
    elif many < int(counts[~bad].min()):
        yield f"rows that see {many} keys or fewer are wrong, rows that see {int(counts[~bad].min())} or more are right"


# ---- how the wrong values relate to the right ones --------------------------------------------------


def _relation(run: Run, found: Counterexample, bound: Bound) -> Iterator[str]:
    tensor = found.tensor
    wrong, actual, expected = run.wrong[tensor], run.actual[tensor], run.expected[tensor]
    a, e = actual[wrong], expected[wrong]
    undefined = "missing: nothing stores these cells" if found.actual == "unwritten" else "NaN"
    for value, what in ((np.isnan(a), undefined), (np.isposinf(a), "+inf"),
                        (np.isneginf(a), "-inf"), (a == 0, "0")):  # fmt: skip
        if value.all():
            yield f"every wrong value is {what}"
            return
    if np.all(e == 0):
        yield "the spec says 0 in every wrong cell"
        return
    if not (np.isfinite(a).all() and np.isfinite(e).all()):
        kinds = {"NaN": np.isnan(a), "infinite": np.isinf(a), "0": a == 0, "another number": np.isfinite(a) & (a != 0)}
        yield "wrong values are " + ", ".join(f"{k} ({int(v.sum())})" for k, v in kinds.items() if v.any())
        return
    if (a == 0).any():
        yield f"{int((a == 0).sum())} of the wrong values are 0"
    usable = np.abs(e) > 1e-3 * float(np.abs(e).max())
    ratios, steps = a[usable] / e[usable], a - e
    if a.size == 1:
        pass  # of one value anything can be said
    elif np.ptp(ratios) <= EQUAL * abs(ratios[0]):
        yield f"every wrong value is {_named(float(ratios[0]), found, bound)} times the right one"
    elif np.ptp(steps) <= EQUAL * max(float(np.abs(a).max()), abs(float(steps[0]))):
        yield f"every wrong value is the right one plus {_named(float(steps[0]), found, bound)}"
    elif actual.ndim > 1 and _by_row(actual, expected, wrong):
        yield "within a row (the last index varying) wrong and right values differ by one factor: a factor of the row"
    yield from _elsewhere(float(actual[found.cell]), expected, found)


def _by_row(actual: Array, expected: Array, wrong: Array) -> bool:
    rows = wrong.any(axis=-1)
    if actual.shape[-1] < 4 or not np.all(np.abs(expected[rows]).max(axis=-1) > 0):
        return False
    a, e = actual[rows], expected[rows]
    at = np.abs(e).argmax(axis=-1)[:, None]
    factor = np.take_along_axis(a, at, -1) / np.take_along_axis(e, at, -1)
    return bool(np.all(np.abs(a - factor * e) <= EQUAL * np.abs(a).max(axis=-1, keepdims=True)))


def _elsewhere(value: float, expected: Array, found: Counterexample) -> Iterator[str]:
    """Another cell whose right value this is."""
    same = np.argwhere(np.abs(expected - value) <= 1e-12 * abs(value))
    others = [tuple(map(int, c)) for c in same if tuple(map(int, c)) != found.cell]
    if len(others) == 1:
        yield f"this value is the spec's at another cell: {found.tensor}[{', '.join(map(str, others[0]))}]"


def _named(value: float, found: Counterexample, bound: Bound) -> str:
    """A number, with what else in this run has that value."""
    known: dict[str, float] = {"log2e": math.log2(math.e), "ln2": math.log(2.0)}
    known |= {k: float(v) for k, v in (*found.parameters, *found.sizes)}
    known |= {k: float(v) for k, v in bound.settings if isinstance(v, int)}
    known |= {f"1 / {k}": 1 / v for k, v in known.items() if v}
    sizes = [(k, v) for k, v in found.sizes if v > 1]
    known |= {f"{a} // {b}": float(m // n) for a, m in sizes for b, n in sizes if m > n and m % n == 0}
    known |= {f"{k} * {k}": v * v for k, v in found.parameters}
    same = [k for k, v in known.items() if abs(v - value) <= EQUAL * abs(value)]
    return f"{value:.6g}" + (f" (the value of {' and of '.join(same[:3])} in this run)" if same else "")


def _another_option(run: Run, found: Counterexample, bound: Bound) -> Iterator[str]:
    """Whether the kernel computes the formula of another choice of some option."""
    sizes, parameters = dict(found.sizes), dict(found.parameters)
    settings = {name: str(value) for name, value in bound.settings}
    inputs = generate(*parse_description(found.inputs), bound, sizes, parameters)
    for option in bound.spec.options:
        for choice in option.choices:
            if choice == settings.get(option.name):
                continue
            other = bind(bound.spec, {**settings, option.name: choice})
            if other.inputs != bound.inputs or other.outputs != bound.outputs:
                continue  # a dtype: the formula is the same
            try:
                expected = evaluate(other, sizes, parameters, inputs)
            except EvaluationError:
                continue
            if not any(_differs(run.actual[k], np.asarray(expected[k])).any() for k in run.wrong):
                said = f"{option.name} = {choice}, not for the {settings[option.name]} it is bound to"
                yield f"every output is what the spec says for {said}"


def _others(run: Run, tensor: str) -> Iterator[str]:
    rest = {k: int(v.sum()) for k, v in run.wrong.items() if k != tensor}
    right = [k for k, n in rest.items() if n == 0]
    if right:
        yield f"right everywhere: {', '.join(right)}"
    bad = [f"{k} ({n} of {run.wrong[k].size})" for k, n in rest.items() if n]
    if bad:
        yield f"wrong as well: {', '.join(bad)}"
