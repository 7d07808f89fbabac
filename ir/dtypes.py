"""Which dtype a word of a kernel names, and which floats a kernel may round to.

Equality with the spec is equality over the reals, where a cast is the identity: nothing in it stops a kernel from
buying speed with precision nobody offered. So no value may be held in a float with a shorter significand than the
coarsest that the spec itself gives one of its tensors. Range is another matter, and S1's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ir import ast
from ir import program as p
from ir.diagnostics import closest
from ir.program import DType

if TYPE_CHECKING:
    from ir.infer import Scope

DTYPES = {dtype.value: dtype for dtype in DType}
SPELLINGS = {"float32": "f32", "fp32": "f32", "float16": "f16", "fp16": "f16", "half": "f16", "bfloat16": "bf16"}
SPELLINGS |= {"int32": "i32", "int64": "i64", "int1": "bool", "float": "f32"}
SIGNIFICAND = {DType.F32: 24, DType.F16: 11, DType.BF16: 8}  # bits, the hidden one counted


def dtype_of(scope: Scope, e: ast.Expr) -> DType:
    """The dtype an expression such as `f32` or `V.dtype` names."""
    match e:
        case ast.Name(name, span) if name in DTYPES:
            dtype = DTYPES[name]
            coarsest = coarsest_of(scope.tensors)
            if dtype.is_float and coarsest is not None and SIGNIFICAND[dtype] < SIGNIFICAND[coarsest]:
                message = f"{name} keeps fewer digits than any tensor of the spec: the coarsest is {coarsest.value}"
                hint = f"use {coarsest.value} or a finer one; to trade precision for speed, bind the spec to it"
                raise scope.problem("K211", message, span, hint)
            return dtype
        case ast.Name(name, span):
            hint = f"write `{SPELLINGS[name]}`" if name in SPELLINGS else f"one of {', '.join(DTYPES)}"
            raise scope.problem("K204", f"`{name}` is not a dtype", span, hint)
        case ast.DTypeOf(tensor, span):
            if tensor not in scope.tensors:
                raise scope.problem("K101", f"`{tensor}` is not a tensor", span, closest(tensor, scope.tensors))
            return scope.tensors[tensor].dtype
        case _:
            raise scope.problem("K204", "a dtype is needed here", e.span, f"one of {', '.join(DTYPES)}, or `T.dtype`")


def coarsest_of(tensors: Mapping[str, p.Tensor]) -> DType | None:
    """The float of shortest significand among the spec's own tensors; None where it has no float."""
    floats = [t.dtype for t in tensors.values() if t.role != "scratch" and t.dtype.is_float]
    return min(floats, key=SIGNIFICAND.__getitem__, default=None)
