"""Spec files: TOML to `Spec`, and a spec with its options and static dimensions fixed, a `Bound`.

A spec is what a certificate is about, so nothing in it is guessed: an unknown key, an undefined name, a
wrong rank or a missing section is a SpecProblem at its line. docs/proof.md says what a spec means.
"""

from __future__ import annotations

import keyword
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ir import ast, formulas
from ir.ast import NOWHERE, Span
from ir.diagnostics import Source, SpecProblem, SyntaxProblem, closest, join
from ir.dtypes import DTYPES as KERNEL_DTYPES
from ir.formulas import Names, Sort
from ir.gradient import expand
from ir.infer import CONSTANTS, OPERATIONS, TRUTH
from ir.limits import settled, widest
from ir.parser import MAX_SOURCE, keywords, parse_definitions, parse_formula
from ir.program import DType
from ir.spec import Bound, Dim, Facts, Limit, Option, Parameter, Shapes, Spec, TensorSpec
from ir.toml_reader import Table

FLOATS = {"bf16": DType.BF16, "fp16": DType.F16, "f16": DType.F16, "fp32": DType.F32, "f32": DType.F32}
INTEGERS = {"i32": DType.I32, "i64": DType.I64}
DTYPES = FLOATS | INTEGERS
MAX_SIZE = 2**62
_FACTS = ("min", "max", "splits", "longest", "part")  # of integer inputs, in the order of `ir.spec.Facts`
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


# ---- files -----------------------------------------------------------------------------------


def packaged_specs() -> Path:
    """The folder of the specs that ship with the package; it stands next to this one."""
    return Path(__file__).resolve().parent.parent / "specs"


def load_spec(path_or_name: str | Path) -> Spec:
    """Read a spec file, or a packaged spec by name ("attention"). Raises SpecProblem."""
    path = Path(path_or_name)
    packaged = packaged_specs() / f"{path}.toml"
    if not path.is_file() and path.name == str(path) and packaged.is_file():
        path = packaged
    source = Source("", str(path_or_name))
    try:
        if path.stat().st_size > MAX_SOURCE:
            raise SpecProblem("S001", f"the file is larger than {MAX_SOURCE // 1024} KiB", NOWHERE, source)
        with path.open(encoding="utf-8-sig") as file:  # some editors put a byte order mark first
            text = file.read(MAX_SOURCE + 1)
    except OSError as error:
        known = sorted(p.stem for p in packaged_specs().glob("*.toml"))
        hint = closest(path.stem, known) or f"give a file, or a packaged spec: {', '.join(known)}"
        raise SpecProblem("S012", f"no spec `{path_or_name}` can be read", NOWHERE, source, hint) from error
    except UnicodeDecodeError as error:
        raise SpecProblem("S001", f"not UTF-8 text: {error.reason}", NOWHERE, source) from error
    return parse_spec(text, str(path))


def parse_spec(text: str, path: str = "<spec>") -> Spec:
    """A spec from its TOML text. Raises SpecProblem with the line and what to do."""
    text = text.replace("\r\n", "\n")
    source = Source(text, path)
    if len(text.encode(errors="replace")) > MAX_SOURCE:
        raise SpecProblem("S001", f"the spec is larger than {MAX_SOURCE // 1024} KiB", NOWHERE, source)
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        place = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        line, column = (int(place[1]), int(place[2])) if place else (0, 0)
        message = "not a TOML file: " + str(error).split(" (at ")[0]
        raise SpecProblem("S001", message, Span(line, column, line, column + 1), source) from error
    return _spec(Table.root(document, source), text, path)


# ---- sections --------------------------------------------------------------------------------

_SECTIONS = ("name", "dims", "inputs", "outputs", "formula", "layout")


def _spec(root: Table, text: str, path: str) -> Spec:
    root.keys(required=_SECTIONS, optional=("doc", "options", "parameters", "bench"))
    name = root.text("name")
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
        raise root.problem("S004", "a spec's name is made of a-z, 0-9, - and _", "name")
    taken: dict[str, str] = {}
    dims = tuple(_dim(t, n) for n, t in _named(root, "dims", "a size", taken))
    options = tuple(_option(t, n) for n, t in _named(root, "options", "an option", taken))
    names = Names(root.source, frozenset(d.name for d in dims))
    names.options = {o.name: o.choices for o in options}
    limits: list[Limit] = []
    decided = replace(names, sizes=frozenset(d.name for d in dims if d.choices))
    parameters = tuple(
        _parameter(t, n, names, decided, limits) for n, t in _named(root, "parameters", "a parameter", taken)
    )
    inputs = tuple(_input(t, n, names, options, decided, limits) for n, t in _named(root, "inputs", "a tensor", taken))
    outputs = tuple(_output(t, n, names, options) for n, t in _named(root, "outputs", "an output", taken))
    formula = root.table("formula")
    formula.keys(required=("define", "empty_row"), optional=("require",))
    empty_row = formula.choice("empty_row", ("zero", "undefined"))
    requires = tuple(_lone(formula, key, names, Sort.TRUTH) for key in formula.elements("require"))
    names.parameters = {p.name: Sort.INTEGER if p.integer else Sort.REAL for p in parameters}
    names.ranks = {t.name: len(t.shape) for t in inputs if not t.saved}
    names.integers = frozenset(t.name for t in inputs if _holds_integers(t, options))
    for part in (t.facts.part for t in inputs if t.facts.part):
        _claim(root.table("inputs"), part, taken)
        taken[part] = "a part function"
        names.ranks, names.integers = {**names.ranks, part: 1}, names.integers | {part}
    stored = (*outputs, *(t for t in inputs if t.saved))
    definitions, derived = expand(
        names,
        _definitions(formula, names, taken, stored),
        {t.name: t.shape for t in inputs if not t.saved},
        {t.name: t.shape for t in stored},
    )
    layout = root.table("layout")
    layout.keys(required=("max_stride",))
    target, search, heldout = _bench(root, dims)
    spec = Spec(
        name=name,
        doc=root.text("doc") if "doc" in root else "",
        source=text,
        path=path,
        dims=dims,
        options=options,
        parameters=parameters,
        inputs=inputs,
        outputs=outputs,
        requires=requires,
        definitions=definitions,
        derived=derived,
        empty_row=empty_row,
        max_stride=layout.integer("max_stride", 1, MAX_SIZE),
        search_shapes=search,
        heldout_shapes=heldout,
        target=target,
        limits=tuple(limits),
    )
    return widest(spec)


def _named(root: Table, section: str, meaning: str, taken: dict[str, str]) -> list[tuple[str, Table]]:
    """The entries of a section, with their names checked and claimed."""
    if section not in root:
        return []
    table = root.table(section)
    if section in ("inputs", "outputs") and not table.names():
        raise root.problem("S003", f"[{section}] names no tensor", section)
    for name in table.names():
        _claim(table, name, taken)
        taken[name] = meaning
    return [(name, table.table(name)) for name in table.names()]


def _claim(table: Table, name: str, taken: Mapping[str, str]) -> None:
    reserved = {*keywords(), *CONSTANTS, *TRUTH, *formulas.FUNCTIONS, *OPERATIONS, *DTYPES, *KERNEL_DTYPES}
    if not _NAME.fullmatch(name):
        raise table.problem("S005", f"`{name}` is not a name", name, "letters, digits and _, no digit first")
    if name in taken:
        raise table.problem("S005", f"`{name}` is already {taken[name]}", name, "choose another name")
    if name in reserved or keyword.iskeyword(name):
        raise table.problem("S005", f"`{name}` is a word of the language", name, "choose another name")


def _dim(table: Table, name: str) -> Dim:
    if "choices" in table:
        table.keys(required=("choices",), optional=("default",))
        choices = table.integers("choices", 1, MAX_SIZE)
        default = table.integer("default", 1, MAX_SIZE) if "default" in table else choices[0]
        if default not in choices:
            raise table.problem("S013", f"the default of {name} is not one of its choices", "default")
        return Dim(name, min(choices), max(choices), choices, default)
    table.keys(required=("min", "max"))
    low, high = table.integer("min", 0, MAX_SIZE), table.integer("max", 0, MAX_SIZE)
    if low > high:
        raise table.problem("S013", f"the limits of {name} leave no value: {low} > {high}", "max")
    return Dim(name, low, high)


def _option(table: Table, name: str) -> Option:
    table.keys(required=("choices", "default"))
    choices = table.texts("choices")
    wrong = [c for c in choices if not re.fullmatch(r"[A-Za-z0-9_.+-]+", c)]
    if wrong:  # choices are written into what is emitted
        message = f"{wrong[0]!r} is no choice of {name}"
        raise table.problem("S004", message, "choices", "a choice is made of letters, digits, and _ . + -")
    return Option(name, choices, table.choice("default", choices))


def _parameter(table: Table, name: str, names: Names, decided: Names, limits: list[Limit]) -> Parameter:
    table.keys(required=("min", "max", "default"), optional=("type",))
    integer = "type" in table and table.choice("type", ("real", "int")) == "int"
    low, high = (
        _integer_limit(table, key) if integer else _limit(table, name, key, decided, limits) for key in ("min", "max")
    )
    if low > high and not any(limit.name == name for limit in limits):
        raise table.problem("S013", f"the limits of {name} leave no value: {low} > {high}", "max")
    return Parameter(name, low, high, _lone(table, "default", names, Sort.INTEGER if integer else Sort.REAL), integer)


def _integer_limit(table: Table, key: str) -> int:
    return table.integer(key, -(2**63), 2**63 - 1)


def _limit(table: Table, name: str, key: str, decided: Names, limits: list[Limit]) -> float:
    """A number; or a formula over what settings decide, which joins `limits` (the number is then theirs to say)."""
    if not isinstance(table.values[key], str):
        return table.real(key)
    limits.append(Limit(name, key, _lone(table, key, decided, Sort.REAL)))
    return 0.0


def _input(
    table: Table, name: str, names: Names, options: tuple[Option, ...], decided: Names, limits: list[Limit]
) -> TensorSpec:
    table.keys(required=("shape", "dtype"), optional=("abs_max", "saved", *_FACTS))
    shape, dtype, choices = _shape(table, name, names, options, DTYPES)
    integers = [c for c in choices if c in INTEGERS]
    if integers and len(integers) < len(choices):
        raise table.problem("S006", f"`{dtype}` is an integer or a float", "dtype", "one kind for a tensor")
    for key in ("abs_max", "saved") if integers else _FACTS:
        if key in table:
            hint = f"integers have {join(_FACTS)}, floats `abs_max`"
            raise table.problem("S002", f"`{name}` of {choices[0]} has no `{key}`", key, hint)
    bound = _limit(table, name, "abs_max", decided, limits) if "abs_max" in table else None
    if bound is not None and bound <= 0 and not any(limit.name == name for limit in limits):
        raise table.problem("S013", "abs_max must be positive", "abs_max")
    facts = _facts(table, name, names, len(shape))
    kept = "saved" in table and table.flag("saved")
    return TensorSpec(name, shape, dtype, bound, kept, facts)


def _output(table: Table, name: str, names: Names, options: tuple[Option, ...]) -> TensorSpec:
    table.keys(required=("shape", "dtype"), optional=("overflow",))
    shape, dtype, _ = _shape(table, name, names, options, FLOATS)
    infinite = "overflow" in table and table.choice("overflow", ("never", "inf")) == "inf"
    return TensorSpec(name, shape, dtype, overflows=infinite)


def _shape(
    table: Table, name: str, names: Names, options: tuple[Option, ...], allowed: Mapping[str, DType]
) -> tuple[tuple[ast.Expr, ...], str, tuple[str, ...]]:
    """Extents, dtype as written, and what it may be."""
    shape = tuple(_lone(table, key, names, Sort.INTEGER) for key in table.elements("shape"))
    if not shape:
        raise table.problem("S004", f"`{name}` has no dimension", "shape")
    dtype = table.text("dtype")
    choices = _dtypes(dtype, options)
    if wrong := [c for c in choices if c not in allowed]:
        known = [*allowed, *(o.name for o in options)]
        hint = closest(dtype, known) or f"one of {', '.join(allowed)}, or an option of such choices"
        if wrong[0] in INTEGERS:  # of an output
            hint = "an output holds floats: what picks an index by value (argmax, top-k, sort) is not in the language"
        of_outputs = "" if allowed is DTYPES else " of outputs"
        raise table.problem("S006", f"`{wrong[0]}` is not a dtype{of_outputs}", "dtype", hint)
    return shape, dtype, choices


def _facts(table: Table, name: str, names: Names, rank: int) -> Facts:
    """What the spec states of an integer input."""
    least, most, splits, longest = (
        _lone(table, key, names, Sort.INTEGER) if key in table else None for key in _FACTS[:4]
    )
    facts = Facts(least, most, splits, longest, table.text("part") if "part" in table else "")
    if facts.splits is None and (facts.longest is not None or facts.part):
        raise table.problem("S003", f"`{name}` splits nothing", "longest" if facts.longest else "part", "add `splits`")
    if facts.splits is not None and rank != 1:
        raise table.problem("S004", f"`{name}` has {rank} dimensions; what splits has one", "shape")
    if facts.splits is not None and (facts.least is not None or facts.most is not None):
        raise table.problem("S002", f"`{name}` runs from 0 to what it splits", "min" if facts.least else "max")
    return facts


def _dtypes(dtype: str, options: tuple[Option, ...]) -> tuple[str, ...]:
    """What a tensor's dtype may be: itself, or the choices of the option it names."""
    return next((o.choices for o in options if o.name == dtype), (dtype,))


def _holds_integers(tensor: TensorSpec, options: tuple[Option, ...]) -> bool:
    return _dtypes(tensor.dtype, options)[0] in INTEGERS


def _bench(root: Table, dims: tuple[Dim, ...]) -> tuple[str, tuple[Shapes, ...], tuple[Shapes, ...]]:
    if "bench" not in root:
        return "sm_90", (), ()
    bench = root.table("bench")
    bench.keys(required=("target",), optional=("search", "heldout"))
    symbolic = [d for d in dims if not d.choices]
    groups = []
    for group in ("search", "heldout"):
        entries = []
        for table in bench.tables(group):
            table.keys(required=("name", "sizes"))
            sizes = table.table("sizes")
            sizes.keys(required=tuple(d.name for d in symbolic))
            values = tuple((d.name, sizes.integer(d.name, d.minimum, d.maximum)) for d in symbolic)
            entries.append(Shapes(table.text("name"), values))
        groups.append(tuple(entries))
    return bench.text("target"), groups[0], groups[1]


# ---- formulas --------------------------------------------------------------------------------


def _lone(table: Table, key: str | tuple[str, int], names: Names, wanted: Sort) -> ast.Expr:
    """A formula in a string of its own; a bare integer will do."""
    value = table.padded(key)
    try:
        e = parse_formula(value, table.source.name)
    except SyntaxProblem as error:
        raise SpecProblem(error.code, error.message, error.span, table.source, error.hint) from error
    formulas.check_formula(names, e, wanted)
    return e


def _definitions(
    table: Table, names: Names, taken: dict[str, str], outputs: tuple[TensorSpec, ...]
) -> tuple[ast.Definition, ...]:
    """The definitions of [formula], all checked, with one for every tensor of `outputs`: the spec's outputs
    and its saved inputs."""
    source = table.source
    try:
        definitions = parse_definitions(table.padded("define"), source.name)
    except SyntaxProblem as error:
        raise SpecProblem(error.code, error.message, error.span, source, error.hint) from error
    ranks = {o.name: len(o.shape) for o in outputs}
    found: dict[str, ast.Definition] = {}
    names.definitions = found
    for definition in definitions:
        name = definition.name
        if name in found:
            hint = f"the first is at line {found[name].span.line}"
            raise SpecProblem("S005", f"`{name}` is defined twice", definition.span, source, hint)
        if name not in ranks and (meaning := taken.get(name) or formulas.meaning_of(names, name)):
            raise SpecProblem("S005", f"`{name}` is {meaning}", definition.span, source, "choose another name")
        if name in ranks and len(definition.parameters) != ranks[name]:
            message = f"`{name}` has {ranks[name]} dimension(s), its definition {len(definition.parameters)} index(es)"
            raise SpecProblem("S007", message, definition.span, source, "one index for each dimension, in order")
        found[name] = definition
    for definition in definitions:
        _check_parameters(definition, names, taken, source)
    for output in outputs:
        if output.name not in found:
            hint = closest(output.name, found) or f"add `{output.name}[...] = ...` to `define`"
            raise table.problem("S010", f"`{output.name}` has no definition", "define", hint)
    formulas.check_definitions(names)
    for output in outputs:
        if names.sorts[output.name] is Sort.TRUTH:
            span = found[output.name].value.span
            raise SpecProblem("S008", f"`{output.name}` is a truth value", span, source, "tensors hold reals")
    return definitions


def _check_parameters(definition: ast.Definition, names: Names, taken: Mapping[str, str], source: Source) -> None:
    for i, parameter in enumerate(definition.parameters):
        meaning = taken.get(parameter) or formulas.meaning_of(names, parameter)
        if parameter in definition.parameters[:i]:
            meaning = "an index already"
        if meaning:
            message = f"`{parameter}` is {meaning}"
            raise SpecProblem("S005", message, definition.span, source, "choose another index name")


# ---- settings --------------------------------------------------------------------------------


def bind(spec: Spec, settings: Mapping[str, str | int] | None = None) -> Bound:
    """Fix options and static dimensions; what is not set takes its default. `true` means an option's first
    choice other than "none", `false` means "none". Raises SpecProblem for a wrong name or value."""
    given = dict(settings or {})
    static = [d for d in spec.dims if d.choices]
    known = [o.name for o in spec.options] + [d.name for d in static]
    source = Source(spec.source, spec.path)
    for name in given:
        if name not in known:
            hint = closest(name, known) or f"settings: {', '.join(known) or 'none'}"
            if any(d.name == name for d in spec.dims):
                hint = f"`{name}` stays symbolic: a proof holds for every value in its limits; {hint}"
            raise SpecProblem("S011", f"`{name}` is not a setting of {spec.name}", NOWHERE, source, hint)
    values: dict[str, str | int] = {}
    for option in spec.options:
        values[option.name] = _chosen(option, str(given.get(option.name, option.default)), source)
    for dim in static:
        text = str(given.get(dim.name, dim.default))
        if text not in map(str, dim.choices):
            hint = f"choices: {join(str(c) for c in dim.choices)}"
            raise SpecProblem("S011", f"{dim.name} = {text} is not a choice", NOWHERE, source, hint)
        values[dim.name] = int(text)
    spec = settled(spec, values)
    return Bound(
        spec=spec,
        settings=tuple(values.items()),
        dims=tuple(d for d in spec.dims if not d.choices),
        inputs=tuple(_tensor_of(t, values) for t in spec.inputs),
        outputs=tuple(_tensor_of(t, values) for t in spec.outputs),
    )


def _tensor_of(t: TensorSpec, values: Mapping[str, str | int]) -> tuple[TensorSpec, DType]:
    """A tensor with the shape and dtype its options choose."""
    shape = tuple(formulas.settled(e, values) for e in t.shape)
    return replace(t, shape=shape), DTYPES[str(values.get(t.dtype, t.dtype))]


def _chosen(option: Option, text: str, source: Source) -> str:
    if text in option.choices:
        return text
    if "none" in option.choices and text.lower() in ("true", "false"):
        others = [c for c in option.choices if c != "none"]
        return others[0] if text.lower() == "true" and others else "none"
    hint = closest(text, option.choices) or f"choices: {join(option.choices)}"
    raise SpecProblem("S011", f"{option.name} = {text} is not a choice", NOWHERE, source, hint)
