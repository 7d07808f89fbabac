"""Certificates the PyTorch tests share: really proved, lowered, and saved where a test can load them."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from ir.loader import bind, load_spec, parse_spec
from synth.certify import certify
from synth.ship import ship

ROOT = Path(__file__).parents[2]
FOLDER = tempfile.TemporaryDirectory(prefix="shipped-")

# Y = scale * X^2 and its gradient: small, and nothing in it is attention.
SQUARE = """
name = "square"
doc = "Every element squared."

[dims]
R = { min = 0, max = 65536 }
C = { min = 1, max = 65536 }

[options]
sign = { choices = ["plus", "minus"], default = "plus" }

[parameters]
scale = { min = 1e-3, max = 1e3, default = "1" }

[inputs]
X = { shape = ["R", "C"], dtype = "f32", abs_max = 1e4 }

[outputs]
Y = { shape = ["R", "C"], dtype = "f32" }

[formula]
empty_row = "undefined"
define = \"\"\"
Y[i, j] = scale * X[i, j] * X[i, j]
\"\"\"

[layout]
max_stride = 1099511627776
"""
SQUARE_GRADIENT = (
    SQUARE.replace('name = "square"', 'name = "square_bwd"')
    .replace("[outputs]\nY =", 'dY = { shape = ["R", "C"], dtype = "f32", abs_max = 1e4 }\n\n[outputs]\ndX =')
    .replace("* X[i, j]\n", "* X[i, j]\ndX[i, j] = grad(Y, X, dY)\n")
)
ELEMENTWISE = """
meta BR = 16
meta BC = 32

kernel elementwise(t < cdiv(R, BR), u < cdiv(C, BC)):
    i = t * BR + arange(BR)
    j = u * BC + arange(BC)
    inside = (i[:, None] < R) and (j[None, :] < C)
    x = load(X[i[:, None], j[None, :]], mask=inside, other=0)
"""
SQUARED = ELEMENTWISE + "    store(Y[i[:, None], j[None, :]], x * x * scale, mask=inside)\n"
SQUARED_GRADIENT = ELEMENTWISE + (
    "    dy = load(dY[i[:, None], j[None, :]], mask=inside, other=0)\n"
    "    store(dX[i[:, None], j[None, :]], x * scale * dy * 2.0, mask=inside)\n"
)


@cache
def shipped(text: str, spec: str, *settings: tuple[str, str | int]) -> Path:
    """The certificate of a kernel; `spec` is a packaged spec's name or a spec's text."""
    bound = bind(parse_spec(spec) if "\n" in spec else load_spec(spec), dict(settings))
    found = certify(text, bound)
    assert found.certificate is not None, [r.id for r in found.report.results if r.residual]
    path = Path(FOLDER.name) / f"{found.certificate.id[:16]}.cert.json"
    ship(found, bound, checked=False).save(path)  # the cross-check has tests of its own
    return path


def attention(causal: str, dtype: str = "fp32") -> Path:
    """Forward attention, head dim 64."""
    text = (ROOT / "tests/golden/proved" / f"fa2_{causal}.tile").read_text()
    return shipped(text, "attention", ("causal", causal), ("dtype", dtype), ("D", 64))


def gradient(causal: str, dtype: str = "fp32") -> Path:
    """The backward of `attention`."""
    text = (ROOT / "specs/attention_bwd" / f"three_kernels_{causal}.tile").read_text()
    return shipped(text, "attention_bwd", ("causal", causal), ("dtype", dtype), ("o_dtype", dtype), ("D", 64))


def square() -> tuple[Path, Path]:
    """Forward and backward."""
    return shipped(SQUARED, SQUARE), shipped(SQUARED_GRADIENT, SQUARE_GRADIENT)
