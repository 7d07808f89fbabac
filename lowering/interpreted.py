"""Runs an emitted module under Triton's interpreter, on the CPU, with that interpreter's defects mended.

A program of its own (`python -m lowering.interpreted FOLDER`, with TRITON_INTERPRET=1), because Triton
decides at import whether kernels are interpreted. Mended here, openly, and only here:

- bfloat16 is kept as the bits of a uint16, and `tl.dot`, arithmetic and comparisons are applied to those
  bits as if they were integers (Triton 3.6.0 and 3.7.1): operands are widened to float32 first;
- a cast from float32 to bfloat16 truncates, or, asked to round, loses the carry out of the significand:
  replaced by rounding to nearest, ties to even, which is what the hardware does;
- `range` over a tensor bound calls `int()` on an array of one element, which NumPy 2.4 refuses
  (Triton 3.6.0): the element is taken first.

A module in Gluon, which that interpreter does not run, gets `lowering.hopper.emulated` in Gluon's place: each case
under another adversary.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import triton.language as tl
from numpy.typing import NDArray
from triton.runtime import interpreter

from lowering.assumptions import DTYPES
from lowering.emitted import emitted_module
from lowering.hopper.emulated import emulated_module
from lowering.hopper.simulate import adversaries
from lowering.launch import allocate, prepared

Array = NDArray[Any]


def widen(bits: Array) -> Array:
    """bfloat16 bits (uint16) as float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow(values: Array) -> Array:
    """float32 as bfloat16 bits, to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


def _is_bf16(handle: Any) -> bool:
    return bool(handle.dtype.scalar == tl.bfloat16)


def _mended_cast(original: Callable[..., Any]) -> Callable[..., Any]:
    def cast(self: Any, src: Any, dst_type: Any, *rest: Any) -> Any:
        target = dst_type.scalar
        if not _is_bf16(src) and target != tl.bfloat16:
            return original(self, src, dst_type, *rest)
        values = widen(src.data) if _is_bf16(src) else src.data.astype(np.float32)
        data = narrow(values) if target == tl.bfloat16 else values.astype(interpreter._get_np_dtype(target))
        return interpreter.TensorHandle(data, target)

    return cast


def _mended_binary(original: Callable[..., Any]) -> Callable[..., Any]:
    def binary_op(self: Any, lhs: Any, rhs: Any, op: Callable[..., Array]) -> Any:
        if not (_is_bf16(lhs) and _is_bf16(rhs)):
            return original(self, lhs, rhs, op)
        result = op(widen(lhs.data), widen(rhs.data))
        if result.dtype == np.bool_:
            return interpreter.TensorHandle(result, tl.int1)
        return interpreter.TensorHandle(narrow(result), tl.bfloat16)

    return binary_op


def _mended_dot(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        if not _is_bf16(a):
            return original(self, a, b, d, *rest)
        product = np.matmul(widen(a.data), widen(b.data)) + d.data
        return interpreter.TensorHandle(product.astype(d.data.dtype), d.dtype.scalar)

    return create_dot


def _mended_index(original: Callable[..., None]) -> Callable[..., None]:
    def patch(tensor: Any, *scope: Any) -> None:
        original(tensor, *scope)
        tensor.__index__ = lambda self: int(self.handle.data.reshape(-1)[0])

    return patch


def mend() -> None:
    """Replace the defective parts of Triton's interpreter in this process."""
    builder: Any = interpreter.InterpreterBuilder
    builder.cast_impl = _mended_cast(builder.cast_impl)
    builder.create_fp_to_fp = _mended_cast(builder.create_fp_to_fp)
    builder.binary_op = _mended_binary(builder.binary_op)
    builder.create_dot = _mended_dot(builder.create_dot)
    builder.get_bf16 = lambda self, value: interpreter.TensorHandle(narrow(np.array([value], np.float32)), tl.bfloat16)
    interpreter._patch_lang_tensor = _mended_index(interpreter._patch_lang_tensor)


def main(folder: Path) -> None:
    """Run every case N of every module K of request.json: inputs_K_N.npz to outputs_K_N.npz, in `folder`."""
    request = json.loads((folder / "request.json").read_text())
    mend()
    for k, emitted in enumerate(request["modules"]):
        gluon = "triton.experimental.gluon" in emitted["source"]
        module, emulator = emulated_module(emitted["source"]) if gluon else (emitted_module(emitted["source"]), None)
        for number, case in enumerate(emitted["cases"]):
            if emulator is not None:
                emulator.adversary = adversaries(number + 1)[number]
            with np.load(folder / f"inputs_{k}_{number}.npz") as arrays:
                inputs = {name: arrays[name] for name in arrays.files}
            outputs = run_case(module, request["plan"], emitted["launches"], case, inputs)
            with (folder / f"outputs_{k}_{number}.npz").open("wb") as file:
                np.savez(file, allow_pickle=False, **outputs)


def run_case(module: ModuleType, plan: Any, launches: Any, case: Any, inputs: dict[str, Array]) -> dict[str, Array]:
    """Outputs as float64 arrays."""
    sizes, parameters = case["sizes"], case["parameters"]
    dtypes = {t["name"]: DTYPES[t["dtype"]] for t in plan["tensors"]}
    tensors = {name: torch.from_numpy(array).to(dtypes[name]) for name, array in inputs.items()}
    made = allocate(plan, sizes, ("output", "scratch"), "cpu")
    for tensor in made.values():
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))  # a cell nobody stores must show
    prepared(module, launches, {**tensors, **made}, sizes, parameters, [case["at_once"]] * len(launches))()
    return {t["name"]: made[t["name"]].to(torch.float64).numpy() for t in plan["tensors"] if t["role"] == "output"}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
