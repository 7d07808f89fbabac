"""Any certificate as a torch operator: checks, autograd across two certificates, compile, transforms."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shipped import ELEMENTWISE, SQUARE, SQUARE_GRADIENT, SQUARED, SQUARED_GRADIENT, shipped, square
from torch.autograd import forward_ad
from torch.nn.functional import scaled_dot_product_attention as sdpa

import synth
from lowering.assumptions import AssumptionViolated, LaunchError
from lowering.operator import NoGradient, Operator

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def squared() -> Operator:
    forward, backward = square()
    loaded = synth.load(forward, backward=backward)
    assert isinstance(loaded, Operator)
    return loaded


def x(rows: int = 20, columns: int = 40) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).requires_grad_()


# ---- values and gradients --------------------------------------------------------------------


def test_outputs_by_name(squared: Operator) -> None:
    given = x()
    torch.testing.assert_close(squared(X=given, scale=3.0)["Y"], 3 * given * given)
    torch.testing.assert_close(squared(X=given)["Y"], given * given)  # the spec's default


def test_the_backward_certificate_gives_the_gradient(squared: Operator) -> None:
    given, weight = x(), x().detach().sin()
    (squared(X=given, scale=3.0)["Y"] * weight).sum().backward()
    torch.testing.assert_close(given.grad, 6 * given.detach() * weight)


@pytest.mark.parametrize("shape", [(20, 40), (0, 40), (1, 1)])
def test_opcheck(squared: Operator, shape: tuple[int, int]) -> None:
    torch.library.opcheck(squared.entry, (x(*shape), 2.0, False))
    torch.library.opcheck(squared.entry, (x(*shape).detach().t().contiguous().t(), None, True))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_in_one_graph(squared: Operator, dynamic: bool) -> None:
    compiled = torch.compile(
        lambda x: (squared(X=x + 1, scale=0.5)["Y"] * x).sum(), fullgraph=True, dynamic=dynamic, backend="aot_eager"
    )
    for rows in (20, 33):
        given, again = x(rows), x(rows)
        compiled(given).backward()
        (0.5 * (again + 1) ** 2 * again).sum().backward()
        torch.testing.assert_close(given.grad, again.grad)


def test_vmap(squared: Operator) -> None:
    batch = torch.stack([x().detach(), x().detach() + 1])
    torch.testing.assert_close(torch.func.vmap(lambda x: squared(X=x)["Y"])(batch), batch * batch)


# ---- gradients nobody proved -----------------------------------------------------------------


def test_without_a_backward_certificate_the_gradient_is_refused() -> None:
    forward = synth.load(square()[0])
    y = forward(X=x())["Y"]
    with pytest.raises(NoGradient, match="without a backward certificate"):
        y.sum().backward()


def test_second_derivatives_are_refused(squared: Operator) -> None:
    given = x()
    (first,) = torch.autograd.grad(squared(X=given)["Y"].sum(), given, create_graph=True)
    with pytest.raises(NoGradient, match="square_bwd"):
        first.sum().backward()


def test_transforms_that_would_lose_a_gradient_are_refused(squared: Operator) -> None:
    given = x().detach()
    with pytest.raises(NoGradient, match=r"torch\.func"):
        torch.func.grad(lambda x: squared(X=x)["Y"].sum())(given)
    with pytest.raises(NoGradient, match=r"torch\.func"):
        torch.func.jvp(torch.func.vmap(lambda x: squared(X=x[None])["Y"]), (given,), (given,))
    with forward_ad.dual_level(), pytest.raises(NoGradient, match="forward-mode"):
        squared(X=forward_ad.make_dual(given, given))
    with pytest.raises(Exception, match="forward-mode"):
        torch.compile(lambda x: torch.func.jvp(lambda x: squared(X=x)["Y"], (x,), (x,)), backend="aot_eager")(given)


# ---- calls that break an assumption ----------------------------------------------------------


def test_broken_assumptions_are_named(squared: Operator) -> None:
    for assumption, arguments in [
        ("arguments", {}),
        ("arguments", {"X": x(), "Z": x()}),
        ("dtype", {"X": x().double()}),
        ("sizes", {"X": x()[0]}),
        ("parameters", {"X": x(), "scale": 1e6}),
    ]:
        with pytest.raises(AssumptionViolated) as caught:
            squared(**arguments)
        assert caught.value.assumption == assumption


def test_the_input_range_is_checked_at_every_call_when_asked() -> None:
    forward, backward = square()
    checked = synth.load(forward, backward=backward, check_range=True)
    with pytest.raises(AssumptionViolated, match="input-range"):
        checked(X=x() * 1e5)
    y = checked(X=x())["Y"]
    with pytest.raises(AssumptionViolated, match=r"\|dY\| reaches"):
        (y * 1e5).sum().backward()


# ---- certificates that do not belong together ------------------------------------------------


def test_a_backward_of_something_else_is_refused() -> None:
    forward, backward = square()
    with pytest.raises(LaunchError, match="expected one of dX"):
        synth.load(forward, backward=forward)

    cubed = SQUARE.replace("scale * X[i, j] * X[i, j]", "scale * X[i, j] * X[i, j] * X[i, j]")
    other = shipped(SQUARED.replace("x * x", "x * x * x"), cubed.replace('"square"', '"cube"'))
    with pytest.raises(LaunchError, match="means another Y"):
        synth.load(other, backward=backward)

    with pytest.raises(LaunchError, match="sign = minus, the forward one for plus"):
        synth.load(forward, backward=shipped(SQUARED_GRADIENT, SQUARE_GRADIENT, ("sign", "minus")))

    another = SQUARE_GRADIENT.replace('default = "1"', 'default = "2"')
    with pytest.raises(LaunchError, match="another default for scale"):
        synth.load(forward, backward=shipped(SQUARED_GRADIENT, another))

    by_hand = SQUARE_GRADIENT.replace("grad(Y, X, dY)", "2 * scale * X[i, j] * dY[i, j]")  # right, but who says so?
    with pytest.raises(LaunchError, match=r"does not say that dX is grad\(Y, X, dY\)"):
        synth.load(forward, backward=shipped(SQUARED_GRADIENT, by_hand))


def test_an_output_the_backward_leaves_out_is_not_dropped_in_silence() -> None:
    with_twice = SQUARE.replace("[formula]", 'T = { shape = ["R", "C"], dtype = "f32" }\n\n[formula]').replace(
        "* X[i, j]\n", "* X[i, j]\nT[i, j] = 2 * X[i, j]\n"
    )
    kernel = ELEMENTWISE + (
        "    store(Y[i[:, None], j[None, :]], x * x * scale, mask=inside)\n"
        "    store(T[i[:, None], j[None, :]], x + x, mask=inside)\n"
    )
    both = synth.load(shipped(kernel, with_twice), backward=square()[1])
    given = x()
    found = both(X=given)
    found["Y"].sum().backward()
    torch.testing.assert_close(given.grad, 2 * given.detach())
    with pytest.raises(NoGradient, match="no dT; detach the output T"):
        both(X=given)["T"].sum().backward()


# ---- what is imported ------------------------------------------------------------------------


def test_loading_needs_no_proving_code() -> None:
    forward, backward = square()
    program = (
        "import sys, synth\n"
        "assert 'torch' not in sys.modules\n"
        f"synth.load({str(forward)!r}, backward={str(backward)!r})\n"
        "heavy = {'z3', 'lark', 'ir', 'verifier', 'lowering.cpu'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- a family member that is not attention's signature ---------------------------------------


def test_variable_lengths_train_against_each_sequence_alone() -> None:
    """The longest query length is a size of both kernels, the longest key length of the backward alone."""
    settings = (("causal", "none"), ("dtype", "fp32"), ("D", 64))
    forward = (ROOT / "specs/varlen/two_pass.tile").read_text()
    backward = (ROOT / "specs/varlen_bwd/three_kernels.tile").read_text()
    packed = synth.load(shipped(forward, "varlen", *settings), backward=shipped(backward, "varlen_bwd", *settings))
    assert isinstance(packed, Operator) and packed.signature.sizes == ("L", "E")

    torch.manual_seed(0)
    queries, keys = [5, 0, 30], [7, 3, 20]
    given = [torch.randn(sum(n), heads, 64, requires_grad=True) for n, heads in ((queries, 4), (keys, 2), (keys, 2))]
    cuts = [torch.tensor([0, *n]).cumsum(0).to(torch.int32) for n in (queries, keys)]
    q, k, v = given
    found = packed(Q=q, K=k, V=v, cu_q=cuts[0], cu_k=cuts[1], L=30, E=20)["O"]
    alone = [
        sdpa(*(x.transpose(0, 1) for x in (a, b, c)), enable_gqa=True).transpose(0, 1)
        for a, b, c in zip(q.split(queries), k.split(keys), v.split(keys), strict=True)
    ]
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(found)
    ours = torch.autograd.grad((found * weight).sum(), given)
    theirs = torch.autograd.grad((torch.cat(alone) * weight).sum(), given)
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
    with pytest.raises(AssumptionViolated, match=r"\[facts-cu_q\]"):
        packed(Q=q, K=k, V=v, cu_q=cuts[0] + 1, cu_k=cuts[1], L=30, E=20)
