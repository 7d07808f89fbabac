"""What a tensor holds between launches: plain stores laid over each other, and totals of atomic adds.

Kernels run in order, so a tensor is a list of layers, one for each launch that writes it. `held` folds them:
a plain layer replaces what was there where its inverse map covers the cell; an atomic layer adds, for each of
its atomic adds, the total over all executions that hit the cell (`inverse.total`). Over the reals the order
of the additions does not matter. Three things make the fold right:

- the lowest layer needs no condition: C1 shows that plain stores cover every cell before anything reads the
  tensor or adds to it, and R1 that no two executions of one launch store one cell;
- a layer above it leaves a cell alone, or adds nothing, where `covers` is false: its maps must be `exact`;
- one launch stores a tensor or adds to it, not both, so a launch is one layer.

What does not meet the last two is `Unsupported`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ir.ast import Span
from verifier import operations as ops
from verifier.binders import Substitution
from verifier.execute import Access, Trace
from verifier.integers import Int
from verifier.inverse import Writer, exact, total, writer
from verifier.operations import Unsupported
from verifier.smt import Context
from verifier.tiles import Scalar


@dataclass(frozen=True, slots=True)
class Layer:
    """What the `launch`-th kernel writes to one tensor, statement by statement."""

    launch: int
    kernel: str
    writers: tuple[Writer, ...]

    @property
    def adds(self) -> bool:
        return all(w.access.kind == "atomic" for w in self.writers)

    @property
    def mixed(self) -> bool:
        """Whether the launch both stores the tensor and adds to it."""
        return len({w.access.kind for w in self.writers}) > 1


def layer_of(launch: int, trace: Trace, tensor: str) -> Layer:
    accesses = (a for a in trace.of_kind("store", "atomic") if a.tensor == tensor)
    return Layer(launch, trace.kernel, tuple(writer(trace, a) for a in accesses))


def held(layers: tuple[Layer, ...], index: tuple[Int, ...], within: Callable[[Access], Context], span: Span) -> Scalar:
    """The value in a cell after these layers, duties discharged where it was stored; `within` gives the
    context of an access. Raises Unsupported."""
    out: Scalar | None = None
    for layer in layers:
        upper = layer is not layers[0]
        if layer.mixed or (layer.adds and not upper):
            raise Unsupported(f"what {layer.writers[0].access.tensor} holds here: {reason(layer, upper)}", span)
        for w in layer.writers:
            if w.inverse is None or w.access.value is None or (upper and not exact(w, within(w.access))):
                why = w.why or "its index does not tell which execution wrote a cell"
                raise Unsupported(f"what {w.access.tensor} holds here could not be derived: {why}", span)
            at = Substitution(dict(zip(w.cell, index, strict=True)))
            if layer.adds and out is not None:
                out = ops.add(out, Scalar(at.real(total(w))))
                continue
            place = Substitution({atom: at.int(value) for atom, value in w.inverse.items()})
            here = Scalar(place.real(w.access.value.real), place.bool(w.access.value.finite))
            out = here if out is None else ops.where(Scalar(at.bool(w.covers)), here, out)
    if out is None:
        raise Unsupported("no store to read from", span)
    return out


def reason(layer: Layer, upper: bool) -> str:
    """Why a layer cannot be folded."""
    if layer.mixed:
        return f"{layer.kernel} both stores it and adds to it in one launch"
    return "" if upper else f"{layer.kernel} adds to it before any kernel set it"


def run_to_run(layers: Mapping[str, tuple[Layer, ...]]) -> str:
    """What a certificate says of two runs on the same inputs. Machine additions do not associate, so where more
    than one execution of a launch adds to a cell, in an order the hardware chooses, last bits may differ."""
    shared = [
        tensor for tensor, written in layers.items()
        if any(layer.adds and (len(layer.writers) > 1 or layer.writers[0].summed) for layer in written)
    ]  # fmt: skip
    if not shared:
        return "deterministic (bitwise): no cell is added to by two executions of a launch"
    return f"nondeterministic (bitwise): the order of atomic adds into {', '.join(shared)} is not fixed"
