"""A certificate on a real device: results against torch, and the launcher's whole path."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from ir.loader import bind, load_spec
from ir.parser import parse
from ir.typing import check
from lowering.choose import target_of
from lowering.launch import Launcher, load
from lowering.lower import lower
from verifier.certificate import FORMAT, Certificate, digest

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device here"),
]
PAGE = Path(__file__).parents[2] / "docs" / "language.md"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def launcher(tmp_path: Path, dtype: str, bits: int = 64) -> Launcher:
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    text = found.group(1)
    bound = bind(load_spec("attention"), {"causal": "bottom_right", "dtype": dtype, "D": 64})
    program = check(parse(text), bound)
    certificate = Certificate(
        {
            "format": FORMAT,
            "subject": {
                "candidate": {"text": text, "sha256": digest(text)},
                "spec": {"text": bound.spec.source, "sha256": digest(bound.spec.source)},
                "settings": dict(bound.settings),
            },
            "widths": {kernel.name: bits for kernel in program.kernels},
        }
    )
    path = tmp_path / "attention.cert.json"
    lower(certificate, program, bound, targets=(target_of(torch.device("cuda")),)).save(path)
    return load(path)


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """O and LSE in float32: causal bottom-right, a row that sees no key gives 0 and -inf."""
    m, n = q.shape[2], k.shape[2]
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1).float() for x in (k, v))
    s = q.float() @ k.transpose(2, 3) / 8
    rows, columns = torch.arange(m, device=q.device)[:, None], torch.arange(n, device=q.device)[None, :]
    s = s.masked_fill(columns > rows + n - m, -torch.inf)
    return s.softmax(-1).nan_to_num(0.0) @ v, s.logsumexp(-1)


def inputs(dtype: torch.dtype, h: int, g: int, m: int, n: int) -> dict[str, Any]:
    torch.manual_seed(0)
    shapes = {"Q": (2, h, m, 64), "K": (2, g, n, 64), "V": (2, g, n, 64)}
    return {name: torch.randn(shape, device="cuda", dtype=dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize(("h", "g", "m", "n"), [(4, 2, 1000, 1531), (8, 8, 300, 200), (2, 1, 129, 0), (1, 1, 1, 1)])
def test_outputs_agree_with_torch(tmp_path: Path, dtype: str, h: int, g: int, m: int, n: int) -> None:
    given = inputs(DTYPES[dtype], h, g, m, n)
    found = launcher(tmp_path, dtype)(**given, check_range=True)
    o, lse = reference(given["Q"], given["K"], given["V"])
    torch.testing.assert_close(found["O"].float(), o, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(found["LSE"], lse, rtol=1e-3, atol=1e-3)


def test_views_into_a_fused_buffer(tmp_path: Path) -> None:
    fused = torch.randn(2, 333, 3, 4, 64, device="cuda", dtype=torch.bfloat16)
    q, k, v = (fused[:, :, part].transpose(1, 2) for part in range(3))
    found = launcher(tmp_path, "bf16")(Q=q, K=k, V=v)
    torch.testing.assert_close(found["O"].float(), reference(q, k, v)[0], rtol=2e-2, atol=2e-2)


def test_a_prepared_call_writes_the_callers_output(tmp_path: Path) -> None:
    given = inputs(torch.bfloat16, 4, 2, 100, 130)
    out = torch.full_like(given["Q"], torch.nan)
    run = launcher(tmp_path, "bf16").prepare(**given, O=out)
    assert run()["O"] is out
    first = out.clone()
    run()
    assert torch.equal(first, out)


def test_offsets_beyond_two_to_the_thirty_one(tmp_path: Path) -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < 24 * 2**30:
        pytest.skip("needs 24 GiB of device memory")
    buffer = torch.empty(2**32 + 2**23, device="cuda", dtype=torch.bfloat16)  # 2^32 elements apart
    parts = [buffer.as_strided((2, 1, 130, 64), (2**32, 130 * 64, 64, 1), at * 130 * 64) for at in range(3)]
    for part in parts:
        part.copy_(torch.randn(2, 1, 130, 64, device="cuda", dtype=torch.bfloat16))
    q, k, v = parts
    found = launcher(tmp_path, "bf16")(Q=q, K=k, V=v)
    torch.testing.assert_close(found["O"].float(), reference(q, k, v)[0], rtol=2e-2, atol=2e-2)
