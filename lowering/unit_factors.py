"""Multiplications by one that a schedule asks to skip (`skip_ones`).

A loop that rescales the tile it carries by a factor for each row does so by exactly 1.0 where the row's pivot stayed,
and with a pivot that moves lazily (FlashAttention-4) nearly every row of nearly every iteration. x * 1.0 is x in
every bit, for infinities and NaN too, so leaving such a multiplication out changes nothing and needs no proof: the
language has no branch on data, and this is none that a result could show. The condition is that every factor equals 1
(a NaN does not), for the tile as a whole, because a branch is the program's.

What it costs is that all warps must agree on the branch: one reduction across them in each iteration.
"""

from __future__ import annotations

from ir.program import Binary, Broadcast, Expand, Expr, For, Var

SCALED = '''
@triton.jit
def _scaled(x, factor, axis: tl.constexpr):
    """x times a factor for each row (axis 1) or column (axis 0); left as it is where every factor is 1."""
    moves = tl.expand_dims((factor != 1.0).to(tl.int32), 0)  # for sm_100 Triton 3.7.1 cannot reduce a vector here
    if tl.max(moves, axis=1).item() != 0:
        x = x * tl.expand_dims(factor, axis)
    return x
'''


def carried_tiles(loop: For) -> frozenset[str]:
    """The names of float tiles of rank 2 that a loop carries."""
    return frozenset(c.name for c in loop.carries if len(c.type.shape) == 2 and c.type.dtype.is_float)


def scaling(e: Binary, tiles: frozenset[str]) -> tuple[Var, Expr, int] | None:
    """(tile, factors, axis) where e is one of `tiles` times a vector of factors spread along `axis`."""
    if e.op == "mul":
        for tile, factors in ((e.left, e.right), (e.right, e.left)):
            match tile, factors:
                case Var(name=name), Broadcast(operand=Expand(operand=x, axis=axis)) if name in tiles:
                    return tile, x, axis
    return None
