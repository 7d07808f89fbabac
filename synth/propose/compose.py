"""One kernel file from a spec's nests and a set of choices.

The text is laid out as a person would: program ids and rows, what is loaded once, the loops, the stores.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ir.ast import Binary, Expr, Name
from ir.program import DType
from ir.spec import Bound
from synth.propose.choices import Choices
from synth.propose.emit import KEY, ROW, Axis, Block, Emitter, Names, Variable
from synth.propose.formula import Linear, rebuild
from synth.propose.loops import Loop
from synth.propose.packing import Packed, packed
from synth.propose.segments import Rows, later_rows_see_more, segments
from synth.propose.structure import Nest, Output, nests


def compose(bound: Bound, choices: Choices) -> str:
    """Kernel text; raises DoesNotApply for this choice and NothingToPropose for this spec."""
    found = nests(bound)
    blocks = [f"meta BM = {choices.rows}\n"]
    if any(nest.groups for nest in found):
        blocks.append(f"meta BN = {choices.keys}\n")
    for number, nest in enumerate(found):
        if choices.packed:
            nest = packed(nest, bound)
        name = bound.spec.name.replace("-", "_") + (f"_{number}" if len(found) > 1 else "")
        blocks.append("\n" + _Kernel(bound, nest, choices, name).text())
    return "".join(blocks)


@dataclass
class _Kernel:
    bound: Bound
    nest: Nest
    choices: Choices
    name: str
    emitter: Emitter = field(init=False)
    rows: Rows = field(init=False)
    tile: str = field(init=False)
    lines: list[str] = field(default_factory=list)
    results: dict[str, Variable] = field(default_factory=dict)

    def text(self) -> str:
        self._names()
        self._row_tile()
        for name, extent in self.nest.lanes:
            self.emitter.names.taken.discard(name)
            self.emitter.variables[name] = self.emitter.lane(extent, name)
        for group in self.nest.groups:
            blocks = segments(self.emitter, group, self.rows, self.choices)
            loop = Loop(self.emitter, self.choices, group, blocks)
            self.lines += loop.lines()
            self.results |= loop.results
        stores = [self._store(output) for output in self.nest.outputs]
        axes = [(name, self._plain(extent)) for name, extent in self.nest.programs]
        tiles = f"cdiv({self._row_count()}, BM)"
        order: list[str] = []
        if any(later_rows_see_more(self.emitter, group, self.rows) for group in self.nest.groups):
            late = self.emitter.names.fresh("late")
            order.append(f"{self.tile} = {tiles} - 1 - {late}  # rows that see most keys go first")
            axes.append((late, tiles))
        else:
            axes.append((self.tile, tiles))
        grid = ", ".join(f"{name} < {extent}" for name, extent in axes)
        body = [self._schedule(), *order, *self.emitter.outer.lines, *self.lines, *stores]
        return f"kernel {self.name}({grid}):\n" + "".join(f"    {line}\n" for line in body)

    def _schedule(self) -> str:
        choices = self.choices
        settings = [f"num_warps = {choices.warps}", f"num_stages = {choices.stages}"]
        settings += ["warp_specialize = true"] if choices.specialise else []
        settings += ["persistent = true"] if choices.persistent else []
        settings += [f"maxnreg = {choices.registers}"] if choices.registers else []
        return f"schedule {', '.join(settings)}"

    def _plain(self, expr: Expr) -> str:
        return self.emitter.emit(expr, ()).text

    def _names(self) -> None:
        spec, nest = self.bound.spec, self.nest
        taken = {d.name for d in spec.dims} | {p.name for p in spec.parameters}
        taken |= {t.name for t in (*spec.inputs, *spec.outputs)} | {"BM", "BN", "inf", "log2e", "ln2", "true", "false"}
        taken |= {name for name, _ in (*nest.programs, nest.row, *nest.lanes)} | {g.key for g in nest.groups}
        names = Names(taken)
        self.tile = names.fresh("t")
        variables = {name: Variable(name) for name in (*(n for n, _ in nest.programs), self.tile)}
        self.emitter = Emitter(self.bound, names, variables, {ROW: Axis("BM"), KEY: Axis("BN")})

    # ---- rows ----

    def _row_count(self) -> str:
        extent = self.nest.row[1]
        return self._plain(Binary("*", self.nest.heads, extent) if isinstance(self.nest, Packed) else extent)

    def _row_tile(self) -> None:
        emitter, (row, extent) = self.emitter, self.nest.row
        lines, variables = emitter.outer.lines, emitter.variables
        start = Binary("*", Name(self.tile), Name("BM"))
        first = Linear.of(start)
        last = first.plus(Linear(((Name("BM"), 1),), -1))
        match self.nest:
            case Packed(head=head, heads=heads, group=group):
                per_group, shared = emitter.emit(heads, ()), f"{head} that share one {group}"
                count = emitter.name(f"{head}_per_{group}", per_group, (), shared).text
                lane = emitter.names.fresh("r")
                lines.append(f"{lane} = {self.tile} * BM + arange(BM)  # rows of all of them, side by side")
                lines.append(f"{row} = {lane} // {count}")
                lines.append(f"{head} = {group} * {count} + {lane} % {count}")
                variables |= {head: Variable(head, (ROW,)), lane: Variable(lane, (ROW,)), count: Variable(count)}
                emitter.axes[ROW] = Axis("BM", Binary("<", Name(lane), Binary("*", Name(count), extent)))
                first, last = (Linear.of(Binary("//", end.expr(), Name(count))) for end in (first, last))
            case _:
                lines.append(f"{row} = {self.tile} * BM + arange(BM)")
                emitter.axes[ROW] = Axis("BM", Binary("<", Name(row), extent))
        variables[row] = Variable(row, (ROW,))
        self.rows = Rows(row, first, last)

    # ---- outputs ----

    def _store(self, output: Output) -> str:
        emitter = self.emitter
        emitter.variables |= self.results
        axes = emitter.ordered(a for name in output.index for a in emitter.axes_of(Name(name)))
        places = [emitter.emit(Name(name), axes).text for name in output.index]
        mask = emitter.mask(axes)
        # what the value still needs (a contraction, a row's load) is computed here, after the loops
        emitter.outer, before = Block(named=dict(emitter.outer.named)), emitter.outer
        expr = self._safe(output.value)
        value = emitter.filled(emitter.real(expr, axes), emitter.axes_of(expr), axes)
        self.lines += emitter.outer.lines
        emitter.outer = before
        name = output.tensor.name
        always = output.tensor.dtype in ("f32", "fp32")  # else the same text serves every setting of the spec
        stored = value.text if always else f"cast({value.text}, {name}.dtype)"
        return f"store({name}[{', '.join(places)}], {stored}{f', mask={mask.text}' if mask else ''})"

    def _safe(self, expr: Expr) -> Expr:
        """A sum of a row in a denominator is inverted once a row. Where the spec says that an empty sum's quotient is
        0, it may be 0: divide by 1 there."""
        match expr:
            case Binary("/", top, Name(id)) if id in self.results and self.results[id].axes == (ROW,):
                return Binary("*", self._safe(top), Name(self._inverse(self.results[id])))
            case _:
                return rebuild(expr, self._safe)

    def _inverse(self, total: Variable) -> str:
        name = f"{total.text}_inverse"
        if name not in self.emitter.variables:
            self.emitter.names.taken.add(name)
            empty = self.bound.spec.empty_row == "zero"
            safe = f"where({total.text} == 0.0, 1.0, {total.text})" if empty else total.text
            self.lines.append(f"{name} = 1.0 / {safe}")
            self.emitter.variables[name] = Variable(name, total.axes, DType.F32)
        return name
