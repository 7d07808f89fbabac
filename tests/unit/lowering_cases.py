"""Programs and certificates the lowering tests share."""

from __future__ import annotations

import re
from pathlib import Path

from ir.loader import bind, load_spec
from ir.parser import parse
from ir.program import Program
from ir.spec import Bound
from ir.typing import check
from verifier.certificate import FORMAT, Certificate, digest

LANGUAGE_PAGE = Path(__file__).parents[2] / "docs" / "language.md"


def documented() -> str:
    """The kernel of docs/language.md: forward attention, causal bottom-right."""
    found = re.search(r"```python\n(.*?)```", LANGUAGE_PAGE.read_text(), re.DOTALL)
    assert found
    return found.group(1)


def attention(causal: str = "bottom_right", dtype: str = "bf16") -> Bound:
    return bind(load_spec("attention"), {"causal": causal, "dtype": dtype, "D": 64})


def typed(text: str, bound: Bound) -> Program:
    return check(parse(text), bound)


def widths(program: Program, bits: int = 64) -> dict[str, int]:
    return {kernel.name: bits for kernel in program.kernels}


def certificate_for(text: str, bound: Bound, bits: int = 64) -> Certificate:
    """A certificate's subject and widths as the prover writes them; only lowering reads it here."""
    program = typed(text, bound)
    return Certificate(
        {
            "format": FORMAT,
            "subject": {
                "candidate": {"text": text, "sha256": digest(text)},
                "spec": {"text": bound.spec.source, "sha256": digest(bound.spec.source), "name": bound.spec.name},
                "settings": dict(bound.settings),
            },
            "widths": widths(program, bits),
        }
    )


# Every operation of the language once, over a copy of Q: nothing here is attention.
EVERY_OPERATION = """
meta BM = 16
scratch T[B, H, M, D]: f32

kernel fill(b < B, h < H, t < cdiv(M, BM)):
    schedule num_warps = 2, num_stages = 1
    i = t * BM + arange(BM)
    e = arange(D)
    x = cast(load(Q[b, h, i[:, None], e[None, :]], mask=i[:, None] < M, other=0), f32)
    y = tanh(x) + sigmoid(x) * exp2(-abs(x)) + sqrt(abs(x)) - log2(abs(x) + 1.0) / (log(abs(x) + 2.0) + log2e)
    y = maximum(minimum(y, 3.0), -3.0) * ln2
    z = broadcast(sum(y, axis=1)[:, None], [BM, D]) - trans(trans(y))
    odd = (e[None, :] % 2 == 1) or not (i[:, None] - 7 < e[None, :])
    z = where(odd and i[:, None] >= 0, z, -z)
    store(T[b, h, i[:, None], e[None, :]], z * scale, mask=i[:, None] < M)

kernel shift(t < cdiv(M, BM), h < H, b < B):
    i = t * BM + arange(BM)
    e = arange(D)
    back = (i - 20) // 3 + 7
    back = maximum(back, 0) % max(M, 1)
    a = load(T[b, h, back[:, None], e[None, :]], mask=i[:, None] < M, other=1.5)
    top = max(a, axis=1)
    low = min(a, axis=1)
    n = 0
    total = zeros([BM], f32)
    for r in range(0, 3) carry n, total:
        n = n + r * 2
        total = total + top * cast(n, f32) - low
    store(O[b, h, i[:, None], e[None, :]], cast(a + total[:, None], O.dtype), mask=i[:, None] < M)
    store(LSE[b, h, i], total + cast(n - 4, f32) + cast(-5 // 3, f32), mask=i < M)
"""
