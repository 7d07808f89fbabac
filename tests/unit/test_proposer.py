"""The embedded proposer: every kernel it composes computes the formula, also for specs it has never seen.

Checked by running the kernel on the reference interpreter against the direct evaluator at ragged sizes, so these
tests need no prover; that wrong candidates never pass the prover is the golden suite's business.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from ir.compare import mismatch
from ir.evaluate import evaluate, parameters_default
from ir.inputs import generate
from ir.interpret import Mode, Outcome, interpret
from ir.loader import bind, load_spec, packaged_specs, parse_spec
from ir.parser import parse
from ir.program import Program, Schedule
from ir.spec import Bound
from ir.typing import check
from lowering.compile import compile_kernels
from lowering.plan import launches_of
from lowering.triton import emit_program
from synth.propose import Candidate, NothingToPropose
from synth.propose.choices import Choices, DoesNotApply
from synth.propose.compose import compose
from synth.propose.embedded import propose, written
from synth.propose.mutate import MUTATIONS, mutants
from synth.propose.seeds import NoSuchMeta, seeds

HEAD = """
name = "{name}"
[dims]
B = {{ min = 1, max = 4096 }}
{dims}
D = {{ choices = [64, 128], default = 64 }}
[options]
dtype = {{ choices = ["bf16", "fp16", "fp32"], default = "bf16" }}
[layout]
max_stride = 1099511627776
[parameters]
scale = {{ min = 1e-6, max = 1e3, default = "1 / sqrt(D)" }}
"""

SOFTCAP_WINDOW = HEAD.format(name="softcap-window", dims="""
M = { min = 1, max = 65536 }
N = { min = 0, max = 65536 }
W = { min = 1, max = 65536 }
""") + """
cap = { min = 1, max = 1000, default = "30" }
[inputs]
Q = { shape = ["B", "M", "D"], dtype = "dtype", abs_max = 1e4 }
K = { shape = ["B", "N", "D"], dtype = "dtype", abs_max = 1e4 }
V = { shape = ["B", "N", "D"], dtype = "dtype", abs_max = 1e4 }
[outputs]
O = { shape = ["B", "M", "D"], dtype = "dtype" }
[formula]
empty_row = "zero"
define = '''
S[b, i, j] = cap * tanh(scale * sum[c < D](Q[b, i, c] * K[b, j, c]) / cap)
sees[i, j] = j <= i + N - M and j > i + N - M - W
O[b, i, e] = sum[j < N, sees[i, j]](exp(S[b, i, j]) * V[b, j, e]) / sum[j < N, sees[i, j]](exp(S[b, i, j]))
'''
"""

# The softmax of papers (row maximum subtracted), an additive bias, a slope per head, other names, other layouts.
BIASED = HEAD.format(name="biased", dims="H = { min = 1, max = 64 }\nL = { min = 1, max = 65536 }") + """
[inputs]
q = { shape = ["B", "L", "H", "D"], dtype = "dtype", abs_max = 1e4 }
k = { shape = ["B", "L", "H", "D"], dtype = "dtype", abs_max = 1e4 }
vT = { shape = ["B", "H", "D", "L"], dtype = "dtype", abs_max = 1e4 }
bias = { shape = ["H", "L", "L"], dtype = "f32", abs_max = 100 }
slope = { shape = ["H"], dtype = "f32", abs_max = 1 }
[outputs]
out = { shape = ["B", "L", "H", "D"], dtype = "dtype" }
lse = { shape = ["B", "H", "L"], dtype = "f32" }
[formula]
empty_row = "zero"
define = '''
a[b, h, x, y] = scale * sum[c < D](q[b, x, h, c] * k[b, y, h, c]) + bias[h, x, y] + slope[h] * (y - x)
top[b, h, x] = max[y < L, y <= x](a[b, h, x, y])
z[b, h, x] = sum[y < L, y <= x](exp(a[b, h, x, y] - top[b, h, x]))
out[b, x, h, d] = sum[y < L, y <= x](exp(a[b, h, x, y] - top[b, h, x]) * vT[b, h, d, y]) / z[b, h, x]
lse[b, h, x] = top[b, h, x] + log(z[b, h, x])
'''
"""

# Two outputs without softmax, a distance for a score, rows over another size, a head dim that is no power of 2.
MIXED = HEAD.format(name="mixed", dims="M = { min = 1, max = 65536 }\nN = { min = 1, max = 65536 }").replace(
    "[64, 128], default = 64", "[48], default = 48"
) + """
[inputs]
X = { shape = ["B", "M", "D"], dtype = "dtype", abs_max = 10 }
Y = { shape = ["B", "N", "D"], dtype = "dtype", abs_max = 10 }
V = { shape = ["B", "N", "D"], dtype = "dtype", abs_max = 10 }
[outputs]
gated = { shape = ["B", "M", "D"], dtype = "dtype" }
nearest = { shape = ["B", "M"], dtype = "f32" }
kernel_mean = { shape = ["B", "M", "D"], dtype = "dtype" }
length = { shape = ["B", "N"], dtype = "f32" }
[formula]
empty_row = "zero"
define = '''
distance[b, i, j] = sum[e < D]((X[b, i, e] - Y[b, j, e]) * (X[b, i, e] - Y[b, j, e]))
gated[b, i, e] = sum[j < N](sigmoid(scale * sum[c < D](X[b, i, c] * Y[b, j, c])) * V[b, j, e])
nearest[b, i] = max[j < N](-distance[b, i, j])
mass[b, i] = sum[j < N](exp(-distance[b, i, j]))
kernel_mean[b, i, e] = sum[j < N](exp(-distance[b, i, j]) * V[b, j, e]) / mass[b, i]
length[b, j] = sqrt(sum[c < D](Y[b, j, c] * Y[b, j, c]))
'''
"""

SMALL_TILES = [
    Choices(rows=16, keys=16),
    Choices(rows=16, keys=16, split=True, base2=True),
    Choices(rows=16, keys=16, split=True, pivot="lazy", base2=True),
    Choices(rows=16, keys=16, pivot="two-pass"),
    Choices(rows=16, keys=16, reverse=True, base2=True),
    Choices(rows=16, keys=16, reverse=True, split=True),
    Choices(rows=16, keys=32, packed=True, split=True, base2=True),
]


def attention(causal: str) -> Bound:
    return bind(load_spec("attention"), {"causal": causal})


SPECS = {
    "none": (attention("none"), {"B": 2, "H": 4, "G": 2, "M": 21, "N": 37}),
    "bottom_right": (attention("bottom_right"), {"B": 1, "H": 4, "G": 2, "M": 37, "N": 21}),
    "top_left": (attention("top_left"), {"B": 1, "H": 3, "G": 3, "M": 37, "N": 50}),
    "no keys": (attention("bottom_right"), {"B": 1, "H": 2, "G": 1, "M": 3, "N": 0}),
    "softcap, window": (bind(parse_spec(SOFTCAP_WINDOW)), {"B": 2, "M": 40, "N": 53, "W": 20}),
    "narrow window": (bind(parse_spec(SOFTCAP_WINDOW)), {"B": 1, "M": 40, "N": 29, "W": 3}),
    "bias, slopes": (bind(parse_spec(BIASED)), {"B": 1, "H": 2, "L": 37}),
    "mixed": (bind(parse_spec(MIXED)), {"B": 2, "M": 18, "N": 21}),
}


def outcome(program: Program, bound: Bound, sizes: dict[str, int], generator: str = "normal") -> tuple[Outcome, bool]:
    """What the interpreter gives, and whether it is right: no fault and the evaluator's values."""
    parameters = parameters_default(bound, sizes)
    inputs = generate(generator, 1, bound, sizes, parameters)
    expected = evaluate(bound, sizes, parameters, inputs)
    got = interpret(program, bound, sizes, parameters, inputs, Mode.EXACT)
    return got, not got.faults and mismatch(got.tensors, expected, 1e-9) is None


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("choices", SMALL_TILES, ids=lambda c: "-".join(v for _, v in c.named()))
def test_every_composition_computes_the_formula(name: str, choices: Choices) -> None:
    bound, sizes = SPECS[name]
    try:
        text = written(bound, choices)
    except DoesNotApply:  # choices that need a certain spec
        assert choices.packed and "G" not in sizes
        return
    got, right = outcome(check(parse(text), bound, text), bound, sizes)
    assert right, (got.faults, text)


@pytest.mark.parametrize("name", ["bottom_right", "softcap, window", "bias, slopes", "mixed"])
def test_candidates_differ_and_type_check(name: str) -> None:
    bound, _ = SPECS[name]
    candidates = list(islice(propose(bound), 12))
    assert len({c.text for c in candidates}) == 12
    assert len({c.name for c in candidates}) == 12
    for candidate in candidates:
        check(parse(candidate.text), bound, candidate.text)


def test_the_seed_decides_the_order_after_the_leading_candidates() -> None:
    bound = attention("none")

    def names(seed: int) -> list[str]:
        return [c.name for c in islice(propose(bound, seed), 16)]

    assert names(1) == names(1)
    assert names(1) != names(2)
    assert names(1)[:5] == names(2)[:5]


def test_the_leading_attention_kernel_reads_like_one() -> None:
    text = next(propose(attention("bottom_right"))).text
    assert "t = cdiv(M, BM) - 1 - late  # rows that see most keys go first" in text
    assert "sees = j[None, :] < N and j[None, :] <= i[:, None] + N - M" in text
    assert "s = dot(q, trans(k))\n" in text
    assert "acc = dot(cast(p, V.dtype), v, acc * alpha[:, None])" in text


def test_what_leads_fits_the_head_dim() -> None:
    leaders = [next(propose(bind(load_spec("attention"), {"D": d}))).name for d in (64, 128, 256)]
    assert leaders == [f"128x{keys}-split-exp2-running-w8s2" for keys in (128, 128, 64)]


def test_what_leads_spills_nothing_however_it_is_emitted() -> None:
    bound = bind(load_spec("attention"), {"causal": "bottom_right", "D": 128})
    program = check(parse(next(propose(bound)).text), bound)
    source = emit_program(program, bound, {"attention": 64}, index_widths={"attention": 32})
    (found,) = compile_kernels(source, launches_of(program), "sm_90")
    assert found.spills == 0 and found.tensor_core > 0


def test_only_rows_that_see_ever_more_keys_go_last_first() -> None:
    window, _ = SPECS["softcap, window"]
    for bound, turned in ((attention("none"), False), (attention("top_left"), True), (window, False)):
        assert ("1 - late" in compose(bound, Choices())) == turned


def test_a_schedule_names_what_was_chosen_only() -> None:
    assert "schedule num_warps = 4, num_stages = 2\n" in compose(attention("none"), Choices())
    chosen = compose(attention("none"), Choices(specialise=True, persistent=True, registers=168))
    assert "num_stages = 2, warp_specialize = true, persistent = true, maxnreg = 168\n" in chosen


def test_in_base_two_a_positive_scale_enters_with_the_exponential_and_one_of_unknown_sign_stays() -> None:
    leading = compose(attention("none"), Choices(base2=True))
    assert "s = dot(q, trans(k))\n" in leading
    assert "p = exp2(s * scale_log2 - m_safe[:, None])" in leading
    assert "maximum(m, max(s, axis=1) * scale_log2)" in leading
    signed = load_spec("attention").source.replace("scale = { min = 1e-6", "scale = { min = -1e3")
    text = compose(bind(parse_spec(signed)), Choices(base2=True))
    assert "s = scale * dot(q, trans(k))\n" in text
    assert "p = exp2(s * log2e - m_safe[:, None])" in text


def test_a_row_is_divided_by_its_sum_once() -> None:
    text = compose(attention("none"), Choices())
    assert "l_inverse = 1.0 / where(l == 0.0, 1.0, l)" in text
    assert "acc * l_inverse[:, None]" in text


def test_the_maximum_that_a_paper_subtracts_is_not_computed_twice() -> None:
    bound, _ = SPECS["bias, slopes"]
    text = compose(bound, Choices())
    assert text.count("for n in") == 1
    assert text.count(" max(") == 1


def test_scores_that_are_no_matrix_product_get_small_tiles() -> None:
    bound, _ = SPECS["mixed"]
    assert all("meta BM = 16" in c.text for c in islice(propose(bound), 3))


def test_float32_gets_smaller_tiles() -> None:
    bound = bind(load_spec("attention"), {"dtype": "fp32", "D": 128})
    assert "meta BM = 32" in next(propose(bound)).text


def test_a_nested_long_sum_is_refused_with_a_reason() -> None:
    nested = SOFTCAP_WINDOW.replace("tanh(", "tanh(sum[x < N](K[b, x, 0]) * ")
    with pytest.raises(NothingToPropose, match="nested"):
        next(propose(bind(parse_spec(nested))))


# ---- broken on purpose ------------------------------------------------------------------------------


def small_candidate(causal: str, choices: Choices) -> tuple[Candidate, Bound]:
    bound = attention(causal)
    return Candidate("kernel", compose(bound, choices)), bound


def wrong_somewhere(text: str, bound: Bound) -> bool:
    program = check(parse(text), bound, text)
    sizes = [(1, 4, 2, 37, 21), (1, 4, 2, 16, 48), (2, 2, 1, 33, 33), (1, 1, 1, 3, 0)]
    shapes = [dict(zip(("B", "H", "G", "M", "N"), s, strict=True)) for s in sizes]
    return any(not outcome(program, bound, s, g)[1] for s in shapes for g in ("normal", "low"))


def test_every_rule_breaks_some_kernel() -> None:
    broken: set[str] = set()
    for choices in (SMALL_TILES[0], SMALL_TILES[1]):
        candidate, bound = small_candidate("bottom_right", choices)
        for mutant in mutants(candidate, every_place=True):
            rule = dict(mutant.choices)["broken"]
            if rule not in broken and wrong_somewhere(mutant.text, bound):
                broken.add(rule)
    assert broken == {m.name for m in MUTATIONS}


def test_mutants_differ_in_text_and_name_what_should_fall() -> None:
    candidate, bound = small_candidate("bottom_right", SMALL_TILES[0])
    found = list(mutants(candidate))
    assert len({m.text for m in found} | {candidate.text}) == len(found) + 1
    assert all(m.expected for m in found)
    for mutant in found:
        check(parse(mutant.text), bound, mutant.text)


def test_kernels_next_to_a_spec_are_offered_for_their_settings_only(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text((packaged_specs() / "attention.toml").read_text())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "b.tile").write_text("# spec: mine causal=none\nkernel of none")
    (tmp_path / "mine" / "a.tile").write_text("# spec: mine\nkernel of all")
    spec = load_spec(tmp_path / "mine.toml")
    assert [c.name for c in seeds(bind(spec))] == ["a", "b"]
    assert [c.name for c in seeds(bind(spec, {"causal": "top_left"}))] == ["a"]


def test_a_header_gives_sizes_for_a_setting_and_others_to_try(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text((packaged_specs() / "attention.toml").read_text())
    (tmp_path / "mine").mkdir()
    head = "# spec: mine\n# verdict: proved\n# for D=128 dtype=fp32: BM=16\n# for D=128: BM=32\n# also: BM=128\n"
    (tmp_path / "mine" / "a.tile").write_text(head + "meta BM = 64\nkernel of BM = 64\n")
    spec = load_spec(tmp_path / "mine.toml")

    def offered(**settings: str) -> dict[str, str]:
        return {c.name: c.text.partition("meta ")[2].split("\n")[0] for c in seeds(bind(spec, settings))}

    assert offered() == {"a": "BM = 64", "a-128": "BM = 128"}
    assert offered(D="128") == {"a-32": "BM = 32"}
    assert offered(D="128", dtype="fp32") == {"a-16": "BM = 16"}
    assert "for D=128" not in next(seeds(bind(spec, {"D": "128"}))).text
    (tmp_path / "mine" / "a.tile").write_text("# spec: mine\n# also: BK=128\nmeta BM = 64\n")
    with pytest.raises(NoSuchMeta, match="BK"):
        offered()


@pytest.mark.parametrize("written", ["", "num_warps = 4, num_stages = 3", "num_stages = 3"])
def test_a_header_gives_a_number_of_warps(tmp_path: Path, written: str) -> None:
    """Whatever else a schedule says stays as it is."""
    text = (packaged_specs() / "attention" / "head_dim_256.tile").read_text().splitlines()
    body = [line for line in text if not line.startswith(("#", "    schedule"))]
    head = f"    schedule {written}\n" if written else ""
    kernel = "\n".join(body).replace("cdiv(M, BM)):\n", f"cdiv(M, BM)):\n{head}")
    (tmp_path / "mine.toml").write_text((packaged_specs() / "attention.toml").read_text())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.tile").write_text(f"# spec: mine\n# for D=256: num_warps=8\n{kernel}\n")
    bound = bind(load_spec(tmp_path / "mine.toml"), {"causal": "bottom_right", "D": "256"})
    (found,) = seeds(bound)
    schedule = check(parse(found.text), bound).kernels[0].schedule
    assert (schedule.num_warps, schedule.num_stages) == (8, 3 if written else Schedule().num_stages)


def test_a_formula_over_parts_of_a_packed_dimension_is_not_composed() -> None:
    with pytest.raises(NothingToPropose, match="no input"):
        next(propose(bind(load_spec("varlen"))))
