"""An asynchronous program as text to read: one statement a line, expressions as lowering spells them."""

from __future__ import annotations

from collections.abc import Iterator

from ir.program import Expr, Let, Store
from lowering.hopper import async_program as ap
from lowering.spelling import Writer, address, expr


def text(kernel: ap.AsyncKernel) -> str:
    """The whole program; for people and tests, nothing reads it back."""
    lines = [f"kernel {kernel.name}: {kernel.schedule.num_warps} consumer warps, {kernel.shared_bytes} bytes shared"]
    for r in kernel.rings:
        origin = "written" if r.written else f"of {r.tensor}{list(r.box)}"
        lines.append(f"ring {r.name}: {r.stages} x {r.dtype.value}{list(r.shape)} {origin}")
    for title, statements in (("producer", kernel.producer), ("consumer", kernel.consumer)):
        lines += [f"{title}:", *(line for s in statements for line in _lines(s, "    "))]
    return "\n".join(lines) + "\n"


def _lines(s: ap.Statement, pad: str) -> Iterator[str]:
    match s:
        case Let(name=name, value=value):
            yield f"{pad}{name} = {_e(value)}"
        case Store():
            mask = "" if s.mask is None else f" where {_e(s.mask)}"
            place = address(_writer(), s.tensor, s.index, s.value.type.shape)
            yield f"{pad}{'atomic add' if s.atomic else 'store'} {place}: {_e(s.value)}{mask}"
        case ap.WaitEmpty(ring=ring):
            yield f"{pad}wait empty {ring}"
        case ap.Copy(ring=ring, index=index):
            yield f"{pad}copy {ring}[{', '.join(map(_e, index))}]"
        case ap.Write(ring=ring, value=value):
            yield f"{pad}write {ring}: {_e(value)}"
        case ap.WaitFull(ring=ring):
            yield f"{pad}wait full {ring}"
        case ap.Release(ring=ring):
            yield f"{pad}release {ring}"
        case ap.Read(name=name, tile=tile):
            yield f"{pad}{name} = read {_tile(tile)}"
        case ap.IssueDot(name=name, left=left, right=right, acc=acc):
            first = _tile(left) if isinstance(left, ap.Tile) else _e(left)
            yield f"{pad}{name} <- {first} @ {_tile(right)}{'' if acc is None else ' + ' + _e(acc)}"
        case ap.WaitDots(pending=pending):
            yield f"{pad}wait dots {pending}"
        case ap.Loop():
            for c in s.carries:
                yield f"{pad}{c.name} = {_e(c.init)}"
            yield f"{pad}for {s.counter} in {_e(s.start)} .. {_e(s.stop)}:"
            yield from _inside(s, pad + "    ")
        case ap.If():
            for c in s.carries:
                yield f"{pad}{c.name} = {_e(c.init)}"
            yield f"{pad}if {_e(s.condition)}:"
            yield from _inside(s, pad + "    ")


def _inside(s: ap.Loop | ap.If, pad: str) -> Iterator[str]:
    for inner in s.body:
        yield from _lines(inner, pad)
    if s.carries:
        yield f"{pad}next {', '.join(f'{c.name} = {_e(c.next)}' for c in s.carries)}"


def _writer() -> Writer:
    return Writer(32, {}, set())


def _e(e: Expr) -> str:
    return expr(_writer(), e).text


def _tile(tile: ap.Tile) -> str:
    return f"{tile.ring}[-{tile.age}]" + ("^T" if tile.transposed else "")
