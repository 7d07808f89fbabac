"""Dropout: one mask in the spec, the interpreter, the CPU executor and the emitted Triton of every shipped kernel."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from shipped import shipped
from torch.nn.attention.bias import causal_lower_right
from torch.utils.checkpoint import checkpoint

import synth
from ir.compare import mismatch
from ir.evaluate import evaluate
from ir.inputs import generate
from ir.interpret import Mode, interpret
from ir.loader import bind, load_spec, packaged_specs, parse_spec
from ir.parser import parse
from ir.program import Program
from ir.random import random
from ir.spec import Bound
from ir.typing import check
from lowering.cpu import execute
from lowering.crosscheck import Emitted, Run, run_interpreted
from lowering.launch import AssumptionViolated
from lowering.plan import launches_of, plan
from lowering.sdpa import Attention
from lowering.triton import emit_program
from lowering.values import TORCH
from verifier.constants import by_constants, limits
from verifier.integers import reset, symbol
from verifier.magnitude import bound_of
from verifier.proof import analyse
from verifier.prove import prove
from verifier.reals import exp, number, parameter, power, read
from verifier.signs import compare
from verifier.verdict import Verdict

KERNELS = sorted((packaged_specs() / "dropout").glob("*.tile"))
FORWARD, BACKWARD = "dropout/online_causal.tile", "dropout_bwd/three_kernels_causal.tile"
SIZES = {"B": 2, "H": 4, "G": 2, "M": 37, "N": 70}
PARAMETERS = {"scale": 0.125, "p": 0.375, "seed": 2**61 + 3}


@cache
def program(path: Path) -> tuple[Program, Bound]:
    text = path.read_text()
    settings = dict(s.split("=") for s in text.split("\n")[0].split()[3:])
    bound = bind(load_spec("dropout"), {**settings, "dtype": "fp32", "D": "64"})
    return check(parse(text), bound), bound


def showing_the_mask() -> dict[str, np.ndarray]:
    """Equal scores, and a V that is 1 at one key of each column: the output is the mask of the first 64 keys."""
    v = np.broadcast_to(np.eye(70, 64), (2, 2, 70, 64)).copy()
    return {"Q": np.zeros((2, 4, 37, 64)), "K": np.zeros((2, 2, 70, 64)), "V": v}


def mask(causal: str) -> np.ndarray:
    """Which of the first 64 keys each row keeps, from the definition of `keep` written out again."""
    b, h, i, j = np.ogrid[:2, :4, :37, :64]
    sees = {"none": j < 70, "top_left": j <= i, "bottom_right": j <= i + 70 - 37}[causal]
    kept = random(PARAMETERS["seed"], ((b * 4 + h) * 37 + i) * 70 + j) >= PARAMETERS["p"]
    return np.asarray(kept & sees)


@pytest.mark.parametrize("path", KERNELS, ids=lambda p: p.stem)
def test_every_backend_draws_the_mask_of_the_spec(path: Path) -> None:
    typed, bound = program(path)
    inputs = showing_the_mask()
    wanted = mask(str(bound.setting("causal")))
    assert 0 < wanted.mean() < 1
    assert np.array_equal(evaluate(bound, SIZES, PARAMETERS, inputs)["O"] != 0, wanted)
    assert np.array_equal(interpret(typed, bound, SIZES, PARAMETERS, inputs, Mode.EXACT).tensors["O"] > 1e-9, wanted)
    given = {k: torch.from_numpy(x).to(TORCH[typed.tensor(k).dtype]) for k, x in inputs.items()}
    assert np.array_equal(execute(typed, bound, SIZES, PARAMETERS, given)["O"].numpy() > 1e-6, wanted)
    source = emit_program(typed, bound, {k.name: 64 for k in typed.kernels})
    emitted = Emitted(source, launches_of(typed), [Run(SIZES, PARAMETERS, inputs)])
    ((found,),) = run_interpreted(plan(typed, bound), [emitted])
    assert np.array_equal(found["O"] > 1e-6, wanted)


@pytest.mark.parametrize("path", KERNELS, ids=lambda p: p.stem)
@pytest.mark.parametrize(("dtype", "d"), [("fp16", "128"), ("fp32", "64")])
def test_a_kernel_is_proved_for_every_dtype_and_head_dim(path: Path, dtype: str, d: str) -> None:
    text = path.read_text()
    settings = dict(s.split("=") for s in text.split("\n")[0].split()[3:])
    bound = bind(load_spec("dropout"), {**settings, "dtype": dtype, "D": d})
    report = prove(check(parse(text), bound), bound, evidence=False)
    assert report.verdict is Verdict.PROVED, [r.residual for r in report.results if r.residual]


def test_dropout_keeps_the_mean() -> None:
    """A sanity check, not a proof: with equal scores and V = 1 the output is about 1."""
    bound = bind(load_spec("dropout"), {"dtype": "fp32"})
    inputs = {**showing_the_mask(), "V": np.ones((2, 2, 70, 64))}
    out = evaluate(bound, SIZES, PARAMETERS, inputs)["O"][..., 0]
    assert abs(out.mean() - 1.0) < 0.02 and out.std() > 0.05


# ---- param-range: what the limits of parameters say ---------------------------------------------


def test_the_limits_of_a_parameter_decide_signs() -> None:
    reset()
    p, q = parameter("p", 0, 0.875), parameter("q", -2, 3)
    one = number(1)
    assert limits(one - p) == (1 / 8, 1)
    assert compare("gt", one - p).kind == compare("ne", one - p).kind == "true"
    assert compare("gt", p - one).kind == "false"
    assert limits(q * q) == (-6, 9)  # an interval, not a square: no more is claimed
    assert compare("gt", q).kind == compare("eq", p).kind == "real"  # p may be 0
    assert compare("gt", one - p * q).kind == "real"  # 1 - 0.875 * 3 < 0
    assert limits((one - p) * power(q, -1)) is None


def test_a_limit_of_1_leaves_the_division_undefined() -> None:
    reset()
    assert compare("ne", number(1) - parameter("p", 0, 1)).kind == "not"


def test_a_factor_of_parameters_that_stays_positive_changes_no_sign() -> None:
    reset()
    p, q, s = parameter("p", 0, 0.875), parameter("q", 0, 2), exp(read("X", (symbol("i"),)))
    assert compare("gt", s - p * s).kind == compare("ne", s - p * s).kind == "true"  # (1 - p) s
    assert compare("gt", s - q * s).kind == "real"  # 1 - q may be negative
    assert compare("gt", s - p * s - s * s * p).kind == "real"  # s and s * s are different terms
    assert [limits(part) for part, _ in by_constants(s - p * s + number(3))] == [(1 / 8, 1), (3, 3)]


@pytest.mark.parametrize(("limit", "shown"), [("0.9", True), ("0.99999999", False), ("1", False)])
def test_a_divisor_1_minus_p_must_not_be_lost(limit: str, shown: bool) -> None:
    """1 - p is 0 in f32 for p above 1 - 2^-25, and nothing excludes 0 over the reals for p = 1."""
    text = (packaged_specs() / FORWARD).read_text()
    source = load_spec("dropout").source.replace("p = { min = 0, max = 0.9,", f"p = {{ min = 0, max = {limit},")
    bound = bind(parse_spec(source), {"causal": "bottom_right"})
    report = prove(check(parse(text), bound), bound, search=False)
    assert (report.verdict is Verdict.PROVED) is shown
    assert shown or {r.id for r in report.results if r.verdict is not Verdict.PROVED} & {"S1", "D1"}


def test_the_reciprocal_of_a_constant_is_bounded_by_its_limits() -> None:
    typed, bound = program(KERNELS[0])
    reset()
    proof = analyse(typed, bound)
    p = parameter("p", 0, 0.875)
    assert 8 <= bound_of(proof, power(number(1) - p, -1), proof.context) < 8.001
    assert bound_of(proof, power(p, -1), proof.context) == float("inf")


# ---- backward --------------------------------------------------------------------------------


def autograd(inputs: dict[str, np.ndarray], causal: str) -> dict[str, np.ndarray]:
    """Forward and gradients by PyTorch in float64, with the mask written out here."""
    q, k, v = (torch.from_numpy(inputs[n]).requires_grad_() for n in ("Q", "K", "V"))
    b, h, i, j = np.ogrid[: SIZES["B"], : SIZES["H"], : SIZES["M"], : SIZES["N"]]
    counter = ((b * SIZES["H"] + h) * SIZES["M"] + i) * SIZES["N"] + j
    keep = torch.from_numpy(random(PARAMETERS["seed"], counter) >= PARAMETERS["p"])
    sees = torch.from_numpy({"none": j >= 0, "bottom_right": j <= i + SIZES["N"] - SIZES["M"]}[causal])
    group = SIZES["H"] // SIZES["G"]
    scores = q @ k.repeat_interleave(group, 1).transpose(2, 3) * PARAMETERS["scale"]
    weights = scores.masked_fill(~sees, -torch.inf).softmax(-1)
    out = (weights * keep / (1 - PARAMETERS["p"])) @ v.repeat_interleave(group, 1)
    out.backward(torch.from_numpy(inputs["dO"]))
    found = {"O": out, "dQ": q.grad, "dK": k.grad, "dV": v.grad}
    return {name: x.detach().numpy() for name, x in found.items() if x is not None}


@pytest.mark.parametrize("causal", ["none", "bottom_right"])
def test_the_specs_are_what_autograd_gives_for_this_mask(causal: str) -> None:
    forward = bind(load_spec("dropout"), {"causal": causal, "dtype": "fp32"})
    backward = bind(load_spec("dropout_bwd"), {"causal": causal, "dtype": "fp32", "o_dtype": "fp32"})
    inputs = generate("normal", 4, backward, SIZES, PARAMETERS)
    wanted = autograd(inputs, causal)
    assert mismatch(evaluate(forward, SIZES, PARAMETERS, inputs), {"O": wanted["O"]}, 1e-9) is None
    gradients = {name: wanted[name] for name in ("dQ", "dK", "dV")}
    assert mismatch(evaluate(backward, SIZES, PARAMETERS, inputs), gradients, 1e-9) is None


# ---- torch -----------------------------------------------------------------------------------


@cache
def certified() -> Attention:
    """Attention with dropout for torch: two certificates, proved, lowered and loaded."""
    texts = [(packaged_specs() / name).read_text() for name in (FORWARD, BACKWARD)]
    settings = (("causal", "bottom_right"), ("dtype", "fp32"))
    forward = shipped(texts[0], "dropout", *settings)
    found = synth.load(forward, backward=shipped(texts[1], "dropout_bwd", *settings, ("o_dtype", "fp32")))
    assert isinstance(found, Attention)
    return found


def test_torch_trains_through_the_mask_of_the_spec(one_thread: None) -> None:
    attend = certified()
    bound = bind(load_spec("dropout_bwd"), {"causal": "bottom_right", "dtype": "fp32", "o_dtype": "fp32"})
    inputs = generate("normal", 4, bound, SIZES, PARAMETERS)
    wanted = autograd(inputs, "bottom_right")
    given = [torch.from_numpy(inputs[n]).float().requires_grad_() for n in ("Q", "K", "V")]
    lower_right = causal_lower_right(SIZES["M"], SIZES["N"])
    more = {"scale": PARAMETERS["scale"], "dropout_p": PARAMETERS["p"], "enable_gqa": True}

    def run(*x: torch.Tensor, seed: int | None = int(PARAMETERS["seed"])) -> torch.Tensor:
        return attend(*x, attn_mask=lower_right, **more, **({} if seed is None else {"seed": seed}))

    out = run(*given)
    out.backward(torch.from_numpy(inputs["dO"]).float())
    got = {"O": out, **{f"d{n}": x.grad for n, x in zip("QKV", given, strict=True)}}
    assert mismatch({n: x.detach().double().numpy() for n, x in got.items()}, wanted, 1e-4) is None  # type: ignore[union-attr]
    again = checkpoint(run, *given, use_reentrant=False)  # recomputed forward draws the same mask
    assert torch.equal(torch.autograd.grad(again.sum(), given)[0], torch.autograd.grad(run(*given).sum(), given)[0])
    assert not torch.equal(run(*given, seed=1), run(*given, seed=2))
    torch.manual_seed(0)
    first = run(*given, seed=None)
    torch.manual_seed(0)
    assert torch.equal(run(*given, seed=None), first)  # a seed not given comes from torch's generator


def test_a_probability_beyond_the_limit_is_refused() -> None:
    x = torch.zeros(1, 1, 4, 64)
    with pytest.raises(AssumptionViolated, match=r"p = 0.95 is outside"):
        certified()(x, x, x, attn_mask=causal_lower_right(4, 4), dropout_p=0.95)
