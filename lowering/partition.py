"""Which kernels gain from specialised warps, and which of their tiles Triton leaves whole.

On Hopper a specialised loop has one group of warps that loads and two that multiply. The compiler halves each tile of
the products between the two, by rows where a product has at least 128, else by columns where it has at least 256;
where it can do neither, both groups do all the work (Triton 3.6.0 and 3.7.1, WSDataPartition.cpp): slower, and wrong
for atomic additions. So only kernels whose products can all be cut by rows, and that add nothing atomically.

A tile so cut that comes from a descriptor of the host's breaks: 3.7.1 refuses the kernel (issue 11587 of
triton-lang/triton), 3.6.0 moves the wrong box without a word. What no cut by rows reaches is the right operand of
products: only such tiles are loaded through one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from ir.program import Dot, For, Kernel, Let, Load, Store, Transpose, Var
from lowering.plan import walk

WARPS = 4  # a kernel of more keeps them all alike
ROWS, COLUMNS = 128, 256


def can_specialise(kernel: Kernel) -> bool:
    """Whether the schedule asks for it, products are in one loop (Triton fails on a second one, such as a tail's), and
    every product can be cut by rows, and only by rows."""
    loops = [n for n in walk(kernel.body) if isinstance(n, For) and not any(isinstance(s, For) for s in n.body)]
    if sum(any(isinstance(n, Dot) for n in walk(loop.body)) for loop in loops) != 1:
        return False
    products = [n.type.shape for n in walk(kernel.body) if isinstance(n, Dot)]
    asked = kernel.schedule.warp_specialize and kernel.schedule.num_warps == WARPS
    atomic = any(isinstance(n, Store) and n.atomic for n in walk(kernel.body))
    return asked and not atomic and bool(products) and all(m >= ROWS and n < COLUMNS for m, n in products)


def whole_loads(kernel: Kernel) -> frozenset[Load]:
    """The loads whose tiles are right operands of products and nothing else."""
    uses: dict[object, list[object]] = {}
    _uses(kernel.body, False, uses)
    return frozenset(node for node in uses if isinstance(node, Load) and _right(node, uses))


def _right(node: object, uses: Mapping[object, list[object]]) -> bool:
    return all(use is True or (isinstance(use, str) and _right(use, uses)) for use in uses.get(node, [False]))


def _uses(node: object, role: object, uses: dict[object, list[object]]) -> None:
    """Every use of each load and name: True as a right operand, a name where that name stands for it, else False."""
    match node:
        case Let(name=name, value=value):
            _uses(value, name, uses)
        case Dot(left=left, right=right, acc=acc):
            _uses((left, acc), False, uses)
            _uses(right, True, uses)
        case Transpose(operand=x):
            _uses(x, role, uses)
        case Var(name=name):
            uses.setdefault(name, []).append(role)
        case tuple():
            for item in node:
                _uses(item, role, uses)
        case _:
            if isinstance(node, Load):
                uses.setdefault(node, []).append(role)
            for f in fields(node) if hasattr(type(node), "__dataclass_fields__") else ():  # type: ignore[arg-type]
                _uses(getattr(node, f.name), False, uses)
