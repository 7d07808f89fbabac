"""On a device: even sizes run their own version, others the general one, and both give what the formula says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ir.loader import bind, load_spec
from ir.parser import parse
from ir.spec import Bound
from ir.typing import check
from lowering.choose import choose, target_of
from lowering.launch import Launcher, load
from lowering.lower import lower
from synth.propose.specialise import specialised
from verifier.certificate import FORMAT, Certificate, digest

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device here"),
]
KERNEL = Path(__file__).parents[1] / "golden" / "proved" / "fa2_none.tile"


def unproved(text: str, bound: Bound, *requires: str) -> Certificate:
    """As the gate would issue it: there is no solver where this runs."""
    subject = {
        "candidate": {"text": text, "sha256": digest(text)},
        "spec": {"text": bound.spec.source, "sha256": digest(bound.spec.source)},
        "settings": dict(bound.settings),
    }
    widths = {kernel.name: 64 for kernel in check(parse(text), bound).kernels}
    return Certificate({"format": FORMAT, "subject": subject, "widths": widths, "requires": list(requires)})


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    bound = bind(load_spec("attention"), {"causal": "none", "dtype": "bf16", "D": 64})
    text = KERNEL.read_text()
    even = unproved(next(specialised(text, bound)), bound, "M % 32 == 0", "N % 32 == 0")
    path = tmp_path_factory.mktemp("certificates") / "both.cert.json"
    lower(unproved(text, bound), check(parse(text), bound), bound, (), (even,)).save(path)
    return load(path)


@pytest.mark.parametrize(("m", "n", "even"), [(64, 96, True), (1024, 2048, True), (65, 96, False), (64, 95, False)])
def test_both_agree_with_torch(launcher: Launcher, m: int, n: int, even: bool) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, rows, 64, device="cuda", dtype=torch.bfloat16) for rows in (m, n, n))
    sizes = {"B": 2, "H": 4, "G": 4, "M": m, "N": n}
    chosen = choose(launcher.versions, target_of(q.device), {"Q": q, "K": k, "V": v, "O": q, "LSE": q}, sizes)
    assert ("M % 32 == 0" in chosen.name) is even
    found = launcher(Q=q, K=k, V=v)
    wanted = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
    torch.testing.assert_close(found["O"].float(), wanted, rtol=2e-2, atol=2e-2)
