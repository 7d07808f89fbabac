"""One loop over keys: its state, its body, and how the pivot of a weighted group moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ir.ast import Binary, Element, Expr, Name, Number
from ir.program import DType
from synth.propose import NothingToPropose
from synth.propose.choices import Choices
from synth.propose.emit import KEY, ROW, Axis, Block, Emitter, Value, Variable
from synth.propose.formula import TRUE, conjuncts, factors, product
from synth.propose.segments import Segment
from synth.propose.structure import Fold, Group

LAZY_THRESHOLD = "8.0"  # weights stay below exp(8), far from overflow, and rescales are rare
SCORES = (ROW, KEY)


@dataclass
class Loop:
    """Accumulates every fold of a group over `segments`. `results` says where folds and pivot are afterwards.

    With a `unit`, scores stay as the matrix product leaves them and the pivot is in units of exp2: an exponential is
    exp2(s * unit - m), one fused multiply-add for each score, and the maximum is scaled once a row.
    """

    emitter: Emitter
    choices: Choices
    group: Group
    segments: list[Segment]
    results: dict[str, Variable] = field(default_factory=dict)
    pivot: str = ""
    score: Expr | None = None
    unit: str = ""
    masked: bool = True

    def lines(self) -> list[str]:
        emitter = self.emitter
        emitter.variables[self.group.key] = Variable(self.group.key, (KEY,))
        if self.group.score is not None:
            self.pivot = emitter.names.fresh("m")
            self.score = self._scaled(self.group.score) if self.choices.base2 else self.group.score
        lines = [f"{self.pivot} = full([BM], -inf, f32)"] if self.pivot else []
        two_pass = bool(self.pivot) and self.choices.pivot == "two-pass"
        if two_pass:
            lines += [line for s in self.segments for line in self._for(s, [self.pivot], self._maximum)]
            lines.append(f"{self.pivot}_safe = where({self.pivot} == -inf, 0.0, {self.pivot})")
            emitter.names.taken.add(f"{self.pivot}_safe")
        for fold in self.group.folds:
            lines.append(self._initial(fold))
        carried = [self.results[f.name].text for f in self.group.folds]
        if self.pivot and not two_pass:
            carried.insert(0, self.pivot)
        for segment in self.segments:
            lines += self._for(segment, carried, self._weighted if self.pivot else self._unweighted)
        if self.pivot:
            text = f"({self.pivot} * ln2)" if self.unit else self.pivot
            self.results[self.group.pivot] = Variable(text, (ROW,), DType.F32)
        return lines

    def _initial(self, fold: Fold) -> str:
        axes = (ROW, *self._across(fold))
        text = self.emitter.names.fresh(fold.name.rstrip("#"))
        self.results[fold.name] = Variable(text, axes, DType.F32)
        extents = ", ".join(self.emitter.axes[a].extent for a in axes)
        return f"{text} = " + (f"full([{extents}], -inf, f32)" if fold.op == "max" else f"zeros([{extents}], f32)")

    def _across(self, fold: Fold) -> tuple[str, ...]:
        """The lanes of an accumulator besides its rows."""
        return tuple(a for a in self.emitter.axes_of(fold.rest) if a not in SCORES)

    def _scaled(self, score: Expr) -> Expr:
        """The score without its positive scalar factors, which become the unit, together with log2(e).

        A positive factor moves out of a maximum. One whose sign is not known stays with the score.
        """
        emitter = self.emitter
        parts = factors(score)
        moved = [part for part in parts if self._is_positive(part[0])]
        value = emitter.real(product([*moved, (Name("log2e"), 1)]), ())
        self.unit = "log2e"
        if moved:
            value = emitter.name("scale_log2", value, (), "exp(scale * x) is exp2(scale_log2 * x)")
            emitter.variables[value.text] = Variable(value.text, (), DType.F32)
            self.unit = value.text
        return product([part for part in parts if part not in moved])

    def _is_positive(self, factor: Expr) -> bool:
        match factor:
            case Number(value):
                return value > 0
            case Name(id):
                return any(p.name == id and not p.integer and p.lower > 0 for p in self.emitter.bound.spec.parameters)
            case _:
                return False

    # ---- bodies ----

    def _for(self, segment: Segment, carried: list[str], write: Callable[[], None]) -> list[str]:
        emitter, key = self.emitter, self.group.key
        kept = set(emitter.names.taken)
        counter = emitter.names.fresh("n")
        emitter.inner = Block()
        emitter.axes[KEY] = Axis("BN", Binary("<", Name(key), self.group.extent) if segment.masked else None)
        emitter.guard = self.group.sees
        self.masked = segment.masked
        block = counter
        if self.choices.reverse:
            last = f"{segment.stop} - 1" if segment.start == "0" else f"{segment.start} + {segment.stop} - 1"
            block = f"({last} - {counter})"
        lines = emitter.inner.lines
        lines.append(f"{key} = {block} * BN + arange(BN)")
        write()
        # names of the body end with it; what it put before the loop stays
        emitter.names.taken = kept | {line.partition(" = ")[0] for line in emitter.outer.lines}
        head = f"for {counter} in range({segment.start}, {segment.stop}) carry {', '.join(carried)}:"
        return [head, *(f"    {line}" for line in lines)]

    def _visible(self) -> Value | None:
        """The mask of cells of this tile that count, named once per body."""
        if not self.masked:
            return None
        emitter = self.emitter
        slot = (Name("#sees"), SCORES)
        if (known := emitter.inner.named.get(slot)) is not None:
            return known
        conditions = [*conjuncts(emitter.axes[KEY].mask or TRUE), *self.group.sees]
        mask = emitter.conjunction(conditions, SCORES)
        if mask is None or len(conditions) == 1:
            return mask
        emitter.inner.named[slot] = emitter.name("sees", mask, SCORES)
        return emitter.inner.named[slot]

    def _scores(self) -> Value:
        """The tile of scores, -inf where a cell is invisible."""
        emitter = self.emitter
        if self.score is None:
            raise NothingToPropose("a loop without scores has no pivot")
        value = emitter.filled(emitter.real(self.score, SCORES), emitter.axes_of(self.score), SCORES)
        value = emitter.name("s", value, SCORES)
        if (visible := self._visible()) is not None:
            emitter.inner.lines.append(f"{value.text} = where({visible.text}, {value.text}, -inf)")
        return value

    def _maximum(self) -> None:
        """First of two passes."""
        self.emitter.inner.lines.append(f"{self.pivot} = maximum({self.pivot}, {self._top(self._scores().text)})")

    def _top(self, scores: str) -> str:
        """The largest score of each row, in the pivot's unit."""
        return f"max({scores}, axis=1)" + (f" * {self.unit}" if self.unit else "")

    def _weights(self, scores: str, pivot: str) -> Value:
        """exp(score - pivot) for the tile."""
        name, scaled = ("exp2", f"{scores} * {self.unit}") if self.unit else ("exp", scores)
        return self.emitter.name("p", Value(f"{name}({scaled} - {pivot}[:, None])", DType.F32), SCORES)

    def _weighted(self) -> None:
        """Sums of exp(score - pivot) * rest; when the pivot moves, what was summed so far is rescaled."""
        emitter, m = self.emitter, self.pivot
        lines, names = emitter.inner.lines, emitter.names
        scores = self._scores().text
        if self.choices.pivot == "two-pass":
            p = self._weights(scores, f"{m}_safe")
            for fold in self.group.folds:
                self._add(fold, p, "")
            return
        new, safe, alpha = (names.fresh(n) for n in (f"{m}_new", f"{m}_safe", "alpha"))
        if self.choices.pivot == "lazy":
            top = names.fresh("top")
            lines.append(f"{top} = maximum({m}, {self._top(scores)})")
            lines.append(f"{new} = where({top} > {m} + {LAZY_THRESHOLD}, {top}, {m})  # moves only when it must")
        else:
            lines.append(f"{new} = maximum({m}, {self._top(scores)})")
        lines.append(f"{safe} = where({new} == -inf, 0.0, {new})  # a row that has seen no key yet")
        p = self._weights(scores, safe)
        lines.append(f"{alpha} = {'exp2' if self.unit else 'exp'}({m} - {safe})")
        for fold in self.group.folds:
            self._add(fold, p, alpha)
        lines.append(f"{m} = {new}")

    def _add(self, fold: Fold, weight: Value, alpha: str) -> None:
        state = self.results[fold.name]
        before = state.text
        if alpha:
            before += f" * {self.emitter.expanded(Value(alpha, DType.F32, True), (ROW,), state.axes).text}"
        self.emitter.inner.lines.append(f"{state.text} = {self._total(fold, weight, before)}")

    def _total(self, fold: Fold, weight: Value, before: str) -> str:
        """`before` plus the sum over the tile's keys of weight * rest, as a matrix product where it is one."""
        emitter = self.emitter
        parts = factors(fold.rest)
        beside = [(f, n) for f, n in parts if set(emitter.axes_of(f)) <= set(SCORES)]
        along = [part for part in parts if part not in beside]
        across = self._across(fold)
        if beside:
            text = f"{weight.text} * {emitter.real(product(beside), SCORES).bracketed}"
            weight = emitter.name("w", Value(text, DType.F32), SCORES)
        if not along:
            return f"{before} + sum({weight.text}, axis=1)"
        if len(across) != 1:
            raise NothingToPropose("an accumulator with more than one static axis")
        if emitter.axes_of(product(along)) == (KEY, *across):
            match along:
                case [(Element() as cell, 1)]:
                    right = emitter.load(cell)
                    left = f"cast({weight.text}, {cell.name}.dtype)"
                case _:
                    right = emitter.name("x", emitter.real(product(along), (KEY, *across)), (KEY,))
                    left = weight.text
            return f"dot({left}, {right.text}, {before})"
        rest = emitter.real(product(along), (ROW, KEY, *across))
        return f"{before} + sum({weight.text}[:, :, None] * {rest.bracketed}, axis=1)"

    def _unweighted(self) -> None:
        """Plain sums and maxima: invisible cells count as 0 or -inf."""
        emitter = self.emitter
        visible = self._visible()
        for fold in self.group.folds:
            state = self.results[fold.name]
            if fold.op == "max":
                axes = (*SCORES, *self._across(fold))
                value = emitter.filled(emitter.real(fold.rest, axes), emitter.axes_of(fold.rest), axes)
                if visible is not None:
                    shown = emitter.filled(emitter.expanded(visible, SCORES, axes), SCORES, axes)
                    value = Value(f"where({shown.text}, {value.text}, -inf)", DType.F32, True)
                emitter.inner.lines.append(f"{state.text} = maximum({state.text}, max({value.text}, axis=1))")
                continue
            parts = factors(fold.rest)
            beside = [(f, n) for f, n in parts if set(emitter.axes_of(f)) <= set(SCORES)]
            along = [part for part in parts if part not in beside]
            value = emitter.filled(emitter.real(product(beside), SCORES), emitter.axes_of(product(beside)), SCORES)
            if visible is not None:
                value = Value(f"where({visible.text}, {value.text}, 0.0)", DType.F32, True)
            weight = emitter.name("w", value, SCORES)
            total = self._total(replace(fold, rest=product(along)), weight, state.text)
            emitter.inner.lines.append(f"{state.text} = {total}")
