"""Launching a certificate: every assumption of the proof is checked, and named when a call breaks it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lowering_cases import attention, certificate_for, documented, typed

from lowering.assumptions import AssumptionViolated, LaunchError, check_determinism, evaluate, grid, show
from lowering.emitted import emitted_module
from lowering.launch import Launcher, allocate, load
from lowering.lower import lower
from verifier.certificate import ASSUMPTIONS, Certificate

pytest.importorskip("triton", reason="Triton is not installed on this platform")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    bound = attention(dtype="fp16")
    return lower(certificate_for(documented(), bound), typed(documented(), bound), bound, targets=())


@pytest.fixture(scope="module")
def saved(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("certificates") / "attention.cert.json"
    certificate.save(path)
    return path


@pytest.fixture(scope="module")
def launcher(saved: Path) -> Launcher:
    return load(saved)


def call(**changes: Any) -> dict[str, Any]:
    """A call that keeps every assumption, with some arguments replaced (or dropped, when None)."""
    given: dict[str, Any] = {
        "Q": torch.zeros(2, 4, 30, 64, dtype=torch.float16),
        "K": torch.zeros(2, 2, 50, 64, dtype=torch.float16),
        "V": torch.zeros(2, 2, 50, 64, dtype=torch.float16),
    }
    return {k: v for k, v in {**given, **changes}.items() if v is not None}


def test_a_call_that_keeps_every_assumption(launcher: Launcher) -> None:
    _, sizes, parameters = launcher.check(call(), check_range=True)
    assert sizes == {"B": 2, "H": 4, "G": 2, "M": 30, "N": 50}
    assert parameters == {"scale": 0.125}  # the spec's default, 1 / sqrt(D)


def half(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, dtype=torch.float16)


class MaskedQueries(torch.Tensor):
    """A subclass may keep its values anywhere."""


SHARED = half(2, 4, 30, 64)
MISALIGNED = torch.frombuffer(bytearray(2 * 2 * 4 * 30 * 64 + 1), dtype=torch.float16, offset=1).view(2, 4, 30, 64)
NEGATED = torch.view_as_complex(torch.zeros(2, 4, 30, 64, 2, dtype=torch.float16)).conj().imag
BROKEN = [
    ("dtype", call(Q=torch.zeros(2, 4, 30, 64)), "float32"),
    ("sizes", call(Q=half(8, 30, 64)), "3 dimensions"),
    ("sizes", call(K=half(2, 2, 51, 64)), "N is 51"),
    ("sizes", call(K=half(2, 2, 50, 32), V=half(2, 2, 50, 32)), "expected"),
    ("sizes", call(K=half(2, 3, 50, 64), V=half(2, 3, 50, 64)), "H % G == 0"),
    ("sizes", call(Q=half(2, 4, 1, 64).expand(2, 4, 2**20 + 1, 64)), "M = 1048577"),
    ("sizes", call(Q=half(2, 4, 0, 64)), "M = 0"),
    ("parameters", call(scale=0.0), "scale = 0.0"),
    ("parameters", call(scale=float("nan")), "scale = nan"),
    ("arguments", call(V=None), "no value for V"),
    ("arguments", call(causal=True), "unknown argument causal"),
    ("arguments", call(Q=[1, 2]), "list"),
    ("layout", call(Q=SHARED, O=SHARED), "O overlaps Q"),
    ("layout", call(O=half(2, 4, 1, 64).expand(2, 4, 30, 64)), "overlap each other"),
    ("dtype", call(K=torch.zeros(2, 2, 50, 64, dtype=torch.float16, device="meta")), "one device"),
    ("dtype", call(), "GPU"),
    ("arguments", call(Q=MaskedQueries(SHARED)), "MaskedQueries"),
    ("arguments", call(scale="large"), "not a float"),
    ("layout", call(Q=SHARED.to_sparse()), "not stored as strided cells"),
    ("layout", call(Q=NEGATED), "resolve_neg"),
    ("layout", call(Q=MISALIGNED), "multiple of its 2-byte element"),
    ("gradient", call(Q=half(2, 4, 30, 64).requires_grad_()), "Q requires a gradient"),
]


@pytest.mark.parametrize(("assumption", "arguments", "says"), BROKEN)
def test_a_broken_assumption_is_named(
    launcher: Launcher, assumption: str, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(AssumptionViolated, match=f"^\\[{assumption}\\].*{says}") as caught:
        launcher(**arguments)
    assert caught.value.assumption == assumption
    assert caught.value.next_step


def test_a_stride_beyond_the_specs_limit_is_named(launcher: Launcher) -> None:
    far = torch.empty_strided((2, 4, 30, 64), (2**40 + 1, 30 * 64, 64, 1), dtype=torch.float16, device="meta")
    with pytest.raises(AssumptionViolated, match="stride 1099511627777 of Q in dimension 0"):
        launcher(**call(Q=far))


def test_no_keys_and_expanded_inputs_are_admitted(launcher: Launcher) -> None:
    _, sizes, _ = launcher.check(call(K=half(2, 2, 0, 64), V=half(2, 2, 0, 64), O=half(2, 4, 30, 64)))
    assert sizes["N"] == 0
    launcher.check(call(K=half(1, 1, 50, 64).expand(2, 2, 50, 64)))  # stride 0 is fine to read


def test_views_into_a_fused_buffer_are_admitted(launcher: Launcher) -> None:
    fused = half(2, 50, 3, 4, 64)
    q, k, v = (fused[:, :, n].transpose(1, 2) for n in range(3))
    _, sizes, _ = launcher.check({"Q": q, "K": k, "V": v})
    assert sizes["N"] == sizes["M"] == 50


def test_the_input_range_is_checked_when_asked(launcher: Launcher) -> None:
    q = half(2, 4, 30, 64)
    q[1, 2, 3, 4] = 2e4
    launcher.check(call(Q=q))
    with pytest.raises(AssumptionViolated, match=r"^\[input-range\] \|Q\| reaches 20000"):
        launcher.check(call(Q=q), check_range=True)
    q[1, 2, 3, 4] = float("nan")
    with pytest.raises(AssumptionViolated, match="input-range"):
        launcher.check(call(Q=q), check_range=True)


def test_every_assumption_named_is_in_the_ledger() -> None:
    ledger = {name for name, _, _ in ASSUMPTIONS}
    assert {row[0] for row in BROKEN} - {"arguments", "gradient"} <= ledger
    assert "input-range" in ledger


def test_atomic_adds_are_refused_where_torch_is_to_be_deterministic() -> None:
    launches = [{"kernel": "dq", "atomic": True}, {"kernel": "dk", "atomic": False}]
    check_determinism(launches)
    try:
        torch.use_deterministic_algorithms(True)
        check_determinism(launches[1:])
        with pytest.raises(AssumptionViolated, match=r"^\[determinism\] dq adds atomically"):
            check_determinism(launches)
        torch.use_deterministic_algorithms(True, warn_only=True)
        with pytest.warns(UserWarning, match="run to run"):
            check_determinism(launches)
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_grid_no_device_can_start_is_refused() -> None:
    launch = {"kernel": "k", "grid": ["B", "H", ["cdiv", "M", 128]]}
    assert grid(launch, {"B": 2, "H": 3, "M": 129}) == 12
    with pytest.raises(AssumptionViolated, match=r"^\[grid\]"):
        grid(launch, {"B": 65536, "H": 1024, "M": 2**20})


# ---- the file --------------------------------------------------------------------------------


def tampered(saved: Path, tmp_path: Path, change: Any) -> Path:
    body = json.loads(saved.read_text())
    change(body)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(body))
    return path


def test_a_changed_certificate_is_refused(saved: Path, tmp_path: Path) -> None:
    def change(body: dict[str, Any]) -> None:
        body["lowered"]["plan"]["max_stride"] = 2**60

    with pytest.raises(LaunchError, match="changed after it was issued"):
        load(tampered(saved, tmp_path, change))


def test_what_changes_on_disk_after_loading_is_not_what_runs(
    certificate: Certificate, saved: Path, tmp_path: Path
) -> None:
    path = tmp_path / "attention.cert.json"
    path.write_text(saved.read_text())
    launcher = load(path)
    path.write_text(path.read_text().replace("tl.exp(", "tl.exp2("))
    module = emitted_module(launcher.versions[-1].source)
    assert module.__file__ is not None and not Path(module.__file__).exists()  # there is no file to change
    assert "".join(module.attention.raw_src) in launcher.versions[-1].source
    assert "tl.exp(" in module.attention.src
    with pytest.raises(LaunchError, match="changed after it was issued"):
        load(path)


def test_a_candidate_that_is_not_the_one_hashed_is_refused(certificate: Certificate, tmp_path: Path) -> None:
    subject = certificate.body["subject"]
    other = {**subject, "candidate": {**subject["candidate"], "text": subject["candidate"]["text"] + "# more\n"}}
    path = tmp_path / "forged.json"
    certificate.with_section("subject", other).save(path)
    with pytest.raises(LaunchError, match="the candidate does not match its hash"):
        load(path)


def test_changed_triton_is_refused_even_under_a_new_id(certificate: Certificate, tmp_path: Path) -> None:
    lowered = {**certificate.body["lowered"]}
    last = lowered["versions"][-1]
    lowered["versions"] = [{**last, "source": last["source"].replace("tl.exp(", "tl.exp2(")}]
    path = tmp_path / "forged.json"
    certificate.with_section("lowered", lowered).save(path)
    with pytest.raises(LaunchError, match="do not match their hash"):
        load(path)


def test_files_that_are_no_certificates(certificate: Certificate, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(LaunchError, match="cannot be read"):
        load(path)
    path.write_text("[1]")
    with pytest.raises(LaunchError, match="format"):
        load(path)
    bare = {k: v for k, v in certificate.body.items() if k != "lowered"}
    Certificate(bare).save(path)
    with pytest.raises(LaunchError, match="no emitted kernel"):
        load(path)


def test_launching_imports_none_of_the_proving_code(saved: Path) -> None:
    program = (
        "import sys, lowering.launch\n"
        f"lowering.launch.load({str(saved)!r})\n"
        "heavy = {'z3', 'lark', 'sympy', 'ir', 'verifier', 'synth', 'lowering.plan'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- expressions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value", "text"),
    [
        (["eq", ["mod", "H", "G"], 0], True, "H % G == 0"),
        (["cdiv", "M", 128], 3, "cdiv(M, 128)"),
        (["floordiv", ["sub", 0, "M"], 128], -3, "(0 - M) // 128"),
        (["div", 1, ["sqrt", 64]], 0.125, "1 / (sqrt(64))"),
        (["if", ["lt", "M", "N"], "M", "N"], 300, "if(M < N, M, N)"),
    ],
)
def test_plan_expressions(expression: Any, value: float, text: str) -> None:
    sizes = {"H": 8, "G": 2, "M": 300, "N": 400}
    assert evaluate(expression, sizes) == value
    assert show(expression) == text


def test_a_plan_expression_is_never_python() -> None:
    for bad in ("__import__('os')", ["system", "ls"], {"a": 1}, None):
        with pytest.raises(LaunchError, match="cannot read"):
            evaluate(bad, {})


def test_a_scratch_tensor_whose_extent_is_below_0_has_no_cells() -> None:
    tail = {"name": "T", "shape": [["sub", "N", 64], 8], "dtype": "f32", "role": "scratch"}
    shapes = [list(allocate({"tensors": [tail]}, {"N": n}, ("scratch",), "meta")["T"].shape) for n in (10, 70)]
    assert shapes == [[0, 8], [6, 8]]
