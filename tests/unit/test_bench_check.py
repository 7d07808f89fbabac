"""What the benchmark calls right: a contender that is wrong in one of the usual ways is caught, a right one is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from ir.loader import bind, load_spec
from synth.bench.flex import derived
from synth.bench.formula import evaluator
from synth.bench.recognise import recognised
from synth.bench.suite import check
from synth.bench.suite.check import Expected, expected, judge, outside
from synth.bench.suite.inputs import make
from synth.bench.suite.work import work

CPU = torch.device("cpu")
CAUSAL = bind(load_spec("attention"), {"causal": "top_left", "dtype": "bf16"})
SIZES = {"B": 2, "H": 2, "G": 1, "M": 70, "N": 70}
INPUTS = make(CAUSAL, SIZES, CPU, 0)
Q, K, V = (INPUTS[name] for name in ("Q", "K", "V"))
RIGHT = sdpa(Q, K, V, is_causal=True, enable_gqa=True)


def changed(change: Callable[[torch.Tensor], None]) -> torch.Tensor:
    found = RIGHT.clone()
    change(found)
    return found


def missing_rescale() -> torch.Tensor:
    wide = sdpa(Q.float(), K.float(), V.float(), is_causal=True, enable_gqa=True)
    return (wide * (1 + 0.05 * (torch.arange(70) > 40)[:, None])).bfloat16()


WRONG = {
    "no causal mask": sdpa(Q, K, V, enable_gqa=True),
    "garbage in the tail": changed(lambda o: o[:, :, 64:].mul_(1.5)),
    "one NaN": changed(lambda o: o[1, 0, 3, 5].fill_(torch.nan)),
    "rows never written": changed(lambda o: o[:, :, -6:].fill_(torch.nan)),
    "infinite": changed(lambda o: o[0, 0, 0, 0].fill_(torch.inf)),
    "the other head's keys": sdpa(Q, K.flip(0), V, is_causal=True, enable_gqa=True),
    "late rows not rescaled": missing_rescale(),
    "half of it": RIGHT[:, :, :35],
}


@pytest.fixture(scope="module", params=["every cell", "a sample"])
def wanted(request: pytest.FixtureRequest) -> dict[str, Expected]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "a sample":
            patch.setitem(check.PAIRS, "cpu", 70 * 64 * 150)
        found = expected(CAUSAL, SIZES, INPUTS, 0)
    whole = found["O"].cells.numel() == found["O"].of
    assert whole == (request.param == "every cell") and 0 in found["O"].at[2] and 69 in found["O"].at[2]
    return found


def test_what_is_right_passes(wanted: dict[str, Expected]) -> None:
    judged = judge(wanted, {"O": RIGHT})
    assert judged.reason == "" and 0 < judged.error["O"] <= wanted["O"].allowed < 0.1


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_fails(wanted: dict[str, Expected], name: str) -> None:
    judged = judge(wanted, {"O": WRONG[name]})
    assert judged.reason.startswith("O ") and not judged.error["O"] <= wanted["O"].allowed


def test_a_value_given_in_a_coarser_dtype_may_be_off_by_its_rounding() -> None:
    """As of PyTorch's loss of bf16 logits, where the spec says f32; what is in f32 may not be off so far."""
    cells = torch.linspace(1.0, 9.0, 64, dtype=torch.float64)
    wanted = {"Y": Expected((torch.arange(64),), cells, 64, 0.0, 1e-6, torch.float32, 9.0)}
    rounded = cells.to(torch.bfloat16)
    assert judge(wanted, {"Y": rounded}).reason == ""
    assert judge(wanted, {"Y": rounded.float()}).reason and judge(wanted, {"Y": rounded * 1.01}).reason


def test_what_computes_nothing_is_not_right(wanted: dict[str, Expected]) -> None:
    assert judge(wanted, {}).reason


# ---- what a spec computes, and how much work it is ---------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "settings", "title"),
    [
        ("attention", {"causal": "none"}, "scaled_dot_product_attention (full)"),
        ("attention", {"causal": "bottom_right"}, "scaled_dot_product_attention (bottom-right causal)"),
        ("attention_bwd", {"causal": "top_left"}, "scaled_dot_product_attention (top-left causal), backward"),
        ("decode", {}, "scaled_dot_product_attention (full)"),  # over full caches
        ("layernorm_bwd", {}, "layer_norm, backward"),
        ("cross_entropy", {}, "cross_entropy"),
        ("prefix", {}, None),  # agrees with a causal mask when there are more keys than rows
        ("softcap", {}, None),
    ],
)
def test_an_operation_is_recognised_by_what_it_computes(spec: str, settings: dict[str, str], title: str | None) -> None:
    meaning = recognised(bind(load_spec(spec), settings))
    assert (meaning and meaning.title) == title


@pytest.mark.parametrize(
    ("spec", "gradients", "results"),
    [
        ("window", {}, ()),
        ("bias", {}, ()),
        ("document_bwd", {x: [["O", x[1:], "dO"]] for x in ("dQ", "dK", "dV")}, ("dQ", "dK", "dV")),
        ("sinks", {}, None),  # the sink's weight is no key's: FlexAttention has no place for it
        ("softmax", {}, None),
    ],
)
def test_flex_attention_is_derived_from_the_formula(spec: str, gradients: Any, results: Any) -> None:
    found = derived(bind(load_spec(spec), {}), gradients)
    assert (found and found.results) == results


def counted(spec: str, settings: dict[str, str], sizes: dict[str, int], gradients: dict[str, list[list[str]]]) -> float:
    bound = bind(load_spec(spec), settings)
    return work(bound, gradients, sizes, evaluator(bound, sizes, make(bound, sizes, CPU, 0))).flops


def test_work_follows_the_convention_of_flash_attention() -> None:
    sizes = {"B": 2, "H": 4, "G": 1, "M": 128, "N": 128}
    full = 4.0 * 2 * 4 * 128 * 128 * 64
    assert counted("attention", {}, sizes, {}) == full
    assert counted("attention", {"causal": "top_left"}, sizes, {}) == full * 129 / 256
    gradients = {"dQ": [["O", "Q", "dO"]]}
    assert counted("attention_bwd", {}, sizes, gradients) == 2.5 * full
    assert counted("decode", {}, {"B": 2, "H": 4, "G": 1, "M": 1, "T": 128}, {}) == full / 128
    assert counted("softmax", {}, {"R": 16, "C": 16}, {}) == 0


def test_an_error_beyond_the_proved_bound_is_wrong() -> None:
    assert outside({"O": 0.1, "LSE": 0.01}, {"O": 0.1, "LSE": 0.009}) == ""
    assert "LSE is off by 0.02; its certificate proves 0.01" in outside({"O": 0.1, "LSE": 0.01}, {"LSE": 0.02})
