"""The CPU executor next to torch's scaled_dot_product_attention: `python benchmarks/bench_cpu.py`.

B=1 H=8 N=1024 D=64 float32, tiles of 128: the executor is for correctness and for figures where there
is no GPU, and must stay within 5 times of torch there. A CPU figure says nothing about a GPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from ir.loader import bind, load_spec
from ir.parser import parse
from ir.typing import check
from lowering.cpu import execute

LIMIT = 5.0
KERNEL = """
meta BM = 128
meta BN = 128
kernel attention(b < B, h < H, t < cdiv(M, BM)):
    g = h // (H // G)
    i = t * BM + arange(BM)
    e = arange(D)
    q = load(Q[b, h, i[:, None], e[None, :]], mask=i[:, None] < M, other=0)
    m = full([BM], -inf, f32)
    l = zeros([BM], f32)
    acc = zeros([BM, D], f32)
    for n in range(0, cdiv(N, BN)) carry m, l, acc:
        j = n * BN + arange(BN)
        k = load(K[b, g, j[:, None], e[None, :]], mask=j[:, None] < N, other=0)
        s = where(j[None, :] < N, dot(q, trans(k)) * scale, -inf)
        m_new = maximum(m, max(s, axis=1))
        m_safe = where(m_new == -inf, 0.0, m_new)
        p = exp(s - m_safe[:, None])
        alpha = exp(m - m_safe)
        l = l * alpha + sum(p, axis=1)
        v = load(V[b, g, j[:, None], e[None, :]], mask=j[:, None] < N, other=0)
        acc = dot(p, v, acc * alpha[:, None])
        m = m_new
    l_safe = where(l == 0.0, 1.0, l)
    store(O[b, h, i[:, None], e[None, :]], acc / l_safe[:, None], mask=i[:, None] < M)
    store(LSE[b, h, i], m + log(l), mask=i < M)
"""


def seconds(run: Callable[[], object], times: int = 15) -> float:
    run()
    samples = []
    for _ in range(times):
        begin = time.perf_counter()
        run()
        samples.append(time.perf_counter() - begin)
    return statistics.median(samples)


def measure() -> tuple[float, float]:
    """Median seconds of torch and of the executor."""
    bound = bind(load_spec("attention"), {"causal": "none", "dtype": "fp32", "D": 64})
    program = check(parse(KERNEL), bound)
    sizes = {"B": 1, "H": 8, "G": 8, "M": 1024, "N": 1024}
    inputs = {name: torch.randn(1, 8, 1024, 64) for name in ("Q", "K", "V")}
    attention = torch.nn.functional.scaled_dot_product_attention
    theirs = seconds(lambda: attention(inputs["Q"], inputs["K"], inputs["V"]))
    ours = seconds(lambda: execute(program, bound, sizes, {"scale": 0.125}, inputs))
    return theirs, ours


def main() -> None:
    theirs, ours = measure()
    print(f"torch SDPA {theirs * 1e3:.1f} ms, executor {ours * 1e3:.1f} ms: {ours / theirs:.1f} times (limit {LIMIT})")


if __name__ == "__main__":
    main()
