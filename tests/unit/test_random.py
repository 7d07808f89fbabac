"""random(seed, counter): published vectors, and one value in the evaluator, interpreter, CPU executor and Triton."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from ir.diagnostics import SpecProblem, TypeProblem
from ir.evaluate import evaluate, parameters_default
from ir.interpret import Mode, interpret
from ir.loader import bind, load_spec, parse_spec
from ir.parser import parse
from ir.program import Program
from ir.random import philox, random
from ir.spec import Bound
from ir.typing import check
from lowering.assumptions import AssumptionViolated, _parameters
from lowering.cpu import execute
from lowering.crosscheck import Emitted, Run, run_interpreted
from lowering.plan import launches_of, plan
from lowering.triton import emit_program
from verifier.prove import prove
from verifier.verdict import Report, Verdict

ONES = 0xFFFFFFFF
# Counter, key and result of Philox4x32-10 as published with Random123 (kat_vectors).
PUBLISHED = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)
COUNTERS = np.array([0, 1, 2, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**40 + 7, 2**63 - 1, -1, -(2**35)])
SEEDS = (0, 1, 12345, 2**31 - 1, 2**31, 2**32 + 5, 2**63 - 1)

SPEC = """
name = "uniform"
doc = "Uniform numbers, and which of them are at least p."
[dims]
B = { min = 1, max = 4096 }
M = { min = 1, max = 1048576 }
N = { min = 1, max = 1048576 }
[parameters]
p = { min = 0, max = 0.99, default = "0.25" }
seed = { type = "int", min = 0, max = 9223372036854775807, default = "7" }
[inputs]
X = { shape = ["M"], dtype = "f32", abs_max = 1 }
[outputs]
R = { shape = ["B", "M", "N"], dtype = "f32" }
KEPT = { shape = ["B", "M", "N"], dtype = "f32" }
[formula]
empty_row = "zero"
define = \"\"\"
u[b, i, j]    = random(seed, (b * M + i) * N + j + 1099511627000)
R[b, i, j]    = u[b, i, j]
KEPT[b, i, j] = (if u[b, i, j] >= p then 1 else 0) * X[i] / (1 - p)
\"\"\"
[layout]
max_stride = 1099511627776
""".replace('\\"', '"')
KERNEL = """
meta BM = 16
meta BN = 32

kernel fill(b < B, t < cdiv(M, BM), n < cdiv(N, BN)):
    i = t * BM + arange(BM)
    j = n * BN + arange(BN)
    u = random({seed}, {counter})
    inside = i[:, None] < M and j[None, :] < N
    store(R[b, i[:, None], j[None, :]], u, mask=inside)
    x = load(X[i], mask=i < M, other=0) / (1.0 - p)
    store(KEPT[b, i[:, None], j[None, :]], {kept}, mask=inside)
"""
COUNTER = "(b * M + i[:, None]) * N + j[None, :] + 1099511627000"
KEPT = "where(u >= p, x[:, None], 0.0)"
SIZES = {"B": 2, "M": 21, "N": 45}
PARAMETERS = {"p": 0.25, "seed": 2**40 + 12345}


@cache
def bound() -> Bound:
    return bind(parse_spec(SPEC), {})


def kernel(counter: str = COUNTER, kept: str = KEPT, seed: str = "seed") -> Program:
    return check(parse(KERNEL.format(counter=counter, kept=kept, seed=seed)), bound())


def inputs() -> dict[str, np.ndarray]:
    return {"X": np.linspace(0.5, 1.0, SIZES["M"]).astype(np.float32).astype(np.float64)}


def expected() -> dict[str, np.ndarray]:
    return evaluate(bound(), SIZES, PARAMETERS, inputs())


def words(values: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(v, dtype=np.uint64) for v in values)


@pytest.mark.parametrize(("counter", "key", "result"), PUBLISHED)
def test_philox_gives_the_published_words(counter, key, result) -> None:  # type: ignore[no-untyped-def]
    assert tuple(int(w) for w in philox(words(counter), words(key))) == result  # type: ignore[arg-type]


def test_a_word_becomes_a_number_from_0_up_to_1() -> None:
    first = np.array([np.uint64(0x6627E8D5)])  # of counter 0 under seed 0: positive as a signed word
    assert random(0, 0) == np.float32(first[0]) * np.float32(4.6566127342e-10)
    many = random(3, np.arange(200_000))
    assert many.dtype == np.float32 and 0 <= many.min() and many.max() < 1
    assert abs(float(many.mean()) - 0.5) < 0.005  # a sanity check of the conversion, not a test of Philox


def test_seed_and_counter_are_taken_modulo_2_to_the_64() -> None:
    assert random(5, -1) == random(5, 2**64 - 1) == random(5 + 2**64, np.array([-1 + 2**64], dtype=object))[0]
    assert random(-1, 9) == random(2**64 - 1, 9)
    assert random(5, 2**32) != random(5, 0)  # the high word counts


def test_evaluator_and_interpreter_agree_to_the_bit() -> None:
    outcome = interpret(kernel(), bound(), SIZES, PARAMETERS, inputs(), Mode.EXACT)
    assert outcome.faults == ()
    for name, wanted in expected().items():
        assert np.array_equal(outcome.tensors[name], wanted)


def test_the_cpu_executor_agrees_to_the_bit() -> None:
    given = {"X": torch.from_numpy(inputs()["X"]).float()}
    found = execute(kernel(), bound(), SIZES, PARAMETERS, given)
    assert np.array_equal(found["R"].double().numpy(), expected()["R"])
    assert np.array_equal(found["KEPT"].numpy() != 0, expected()["KEPT"] != 0)


def test_emitted_triton_agrees_to_the_bit() -> None:
    source = emit_program(kernel(), bound(), {"fill": 64})
    emitted = Emitted(source, launches_of(kernel()), [Run(SIZES, PARAMETERS, inputs())])
    ((found,),) = run_interpreted(plan(kernel(), bound()), [emitted])
    assert np.array_equal(found["R"], expected()["R"])
    assert np.array_equal(found["KEPT"] != 0, expected()["KEPT"] != 0)


def test_a_small_seed_is_given_as_wide_as_a_large_one() -> None:
    """Triton would give one below 2^31 in 32 bits: another binary than the one that was compiled ahead of time."""
    source = emit_program(kernel(), bound(), {"fill": 64})
    assert '@triton.jit(do_not_specialize=["M", "N", "seed"])' in source and "    seed: tl.int64,\n" in source


PROBE = """
import sys
import numpy as np
import torch
import triton
import triton.language as tl

@triton.jit
def probe(out, counters, seed, n: tl.constexpr):
    i = tl.arange(0, n)
    tl.store(out + i, tl.rand(tl.cast(seed, tl.int64), tl.load(counters + i, mask=i < 12, other=0)))

rows = []
for seed in map(int, sys.argv[2:]):
    out = torch.empty(16)
    probe[(1,)](out, torch.from_numpy(np.load(sys.argv[1])), seed, 16)
    rows.append(out.numpy()[:12])
np.save(sys.argv[1], np.stack(rows))
"""


def test_tl_rand_is_this_function(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import subprocess
    import sys

    from lowering.compile import child_environment

    script, data = tmp_path / "probe.py", tmp_path / "data.npy"
    script.write_text(PROBE)
    np.save(data, COUNTERS)
    command = [sys.executable, str(script), str(data), *map(str, SEEDS)]
    subprocess.run(command, check=True, env=child_environment(interpret=True), timeout=300)
    assert np.array_equal(np.load(data), np.stack([random(seed, COUNTERS) for seed in SEEDS]))


# ---- the language ----------------------------------------------------------------------------


def report(program: Program) -> Report:
    return prove(program, bound())


@pytest.mark.parametrize("kept", [KEPT, "cast(u >= p, f32) * x[:, None]", "cast(where(u < p, 0, 1), f32) * x[:, None]"])
def test_the_same_mask_is_proved_however_it_is_written(kept: str) -> None:
    found = report(kernel(kept=kept))
    assert found.verdict is Verdict.PROVED, [r.residual for r in found.results]


@pytest.mark.parametrize(
    ("counter", "seed"),
    [
        (COUNTER.replace("* M + i", "* N + i"), "seed"),
        (COUNTER, "seed + 1"),
        (COUNTER, "0"),
        (COUNTER + " + 1", "seed"),
    ],
)
def test_another_counter_or_seed_is_refuted(counter: str, seed: str) -> None:
    found = report(kernel(counter, seed=seed))
    assert found.result("E1").verdict is Verdict.REFUTED


@pytest.mark.parametrize("kept", ["where(u > p, x[:, None], 0.0)", "where(u <= p, 0.0, x[:, None])"])
def test_a_strict_comparison_is_another_condition(kept: str) -> None:
    """It differs from the spec's only where random == p, which no run may meet: not proved, whatever is found."""
    assert report(kernel(kept=kept)).result("E1").verdict is not Verdict.PROVED


def test_a_counter_that_may_not_fit_64_bits_is_not_proved() -> None:
    assert report(kernel()).result("B2").verdict is Verdict.PROVED
    assert report(kernel(f"({COUNTER}) * N")).result("B2").verdict is Verdict.UNPROVED


@pytest.mark.parametrize(
    ("seed", "counter", "message"),
    [("p", COUNTER, "integers"), ("seed", "cast(i, f32)[:, None]", "integers"), ("i", "i[:, None]", "one integer")],
)
def test_seed_and_counter_are_integers_and_the_seed_is_one(seed: str, counter: str, message: str) -> None:
    with pytest.raises(TypeProblem, match=message):
        kernel(counter, seed=seed)


# ---- integer parameters ----------------------------------------------------------------------


def test_an_integer_parameter_keeps_every_bit() -> None:
    assert parameters_default(bound(), SIZES) == {"p": 0.25, "seed": 7}
    limits = plan(kernel(), bound())["parameters"]
    assert limits["seed"] == {"min": 0, "max": 2**63 - 1, "default": 7, "integer": True}
    odd = 2**62 + 1  # no float64 holds it
    assert _parameters({"parameters": limits}, {"seed": odd}, {})["seed"] == odd
    with pytest.raises(AssumptionViolated, match="is not an integer"):
        _parameters({"parameters": limits}, {"seed": 1.5}, {})
    with pytest.raises(AssumptionViolated, match="outside"):
        _parameters({"parameters": limits}, {"seed": -1}, {})


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("max = 9223372036854775807", "max = 1.5", "S004"),
        ("max = 9223372036854775807", "max = 9223372036854775808", "S013"),
        ('type = "int"', 'type = "integer"', "S004"),
        ('default = "7"', 'default = "7 / 2"', "S008"),
        ("random(seed,", "random(p,", "S008"),
        ("random(seed,", "random(seed, b,", "S007"),
    ],
)
def test_integer_parameters_and_random_are_checked(old: str, new: str, code: str) -> None:
    with pytest.raises(SpecProblem) as raised:
        parse_spec(SPEC.replace(old, new))
    assert raised.value.code == code


def test_a_real_parameter_stays_real() -> None:
    assert not any(p.integer for p in load_spec("attention").parameters)
