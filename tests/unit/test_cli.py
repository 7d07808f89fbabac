"""The command line: exit codes, errors a person can act on, and nothing heavy imported before it is needed."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ir.loader import bind, load_spec, packaged_specs
from lowering.launch import load
from synth import __version__
from synth.cli import app, main, settings_of
from synth.events import Event, Started
from synth.plan import Place, Plan
from synth.propose.choices import Choices
from synth.propose.compose import compose
from synth.view_run import show_run
from verifier.certificate import FORMAT

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """A right kernel for attention without a mask."""
    path = tmp_path / "kernel.tile"
    path.write_text(compose(bind(load_spec("attention"), {}), Choices()))
    return path


@pytest.fixture
def wrong(kernel: Path) -> Path:
    """The same one with its rescale forgotten."""
    kernel.write_text(kernel.read_text().replace("acc * alpha[:, None]", "acc"))
    return kernel


# ---- prove -------------------------------------------------------------------------------------------


def test_prove_exits_0_and_names_every_obligation(kernel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prove", str(kernel), "--spec", "attention"]) == 0
    printed = capsys.readouterr().out
    assert all(o in printed for o in ("B1", "B2", "R1", "R2", "C1", "D1", "E1", "S1", "V1"))
    assert f"{kernel}: proved" in printed


def test_prove_says_when_two_runs_may_differ(kernel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prove", str(kernel), "--spec", "attention"]) == 0
    assert "run to run: deterministic (bitwise)" in capsys.readouterr().out
    added = ROOT / "tests" / "golden" / "proved" / "atomic_sums_converted.tile"
    assert main(["prove", str(added), "--spec", "attention"]) == 0
    printed = capsys.readouterr().out
    assert "run to run: nondeterministic (bitwise): the order of atomic adds into SUM, ACC is not fixed" in printed


def test_prove_exits_1_with_the_counterexample(wrong: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prove", str(wrong), "--spec", "attention", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] == "refuted"
    (fallen,) = [r for r in report["results"] if r["verdict"] == "refuted"]
    assert fallen["id"] == "E1"
    assert fallen["counterexample"]["tensor"] == "O"
    assert main(["prove", str(wrong), "--spec", "attention"]) == 1
    printed = capsys.readouterr().out
    assert "expected" in printed and "actual" in printed and "^^^" in printed


def test_an_unproved_kernel_exits_2_and_is_told_what_helps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Right over the reals: the variance as a mean of squares less the square of the mean."""
    path = tmp_path / "variance.tile"
    text = (packaged_specs() / "layernorm" / "whole_row.tile").read_text()
    path.write_text(text.replace("sum(d * d, axis=0) / cast(C, f32)", "sum(x * x, axis=0) / cast(C, f32) - mean*mean"))
    assert main(["prove", str(path), "--spec", "layernorm", "--set", "WIDEST=1024"]) == 2
    said = capsys.readouterr().out
    assert "S1 range: unproved" in said and "help: the mean of squares less the square of the mean" in said


def test_ctrl_c_is_said_in_one_line(
    kernel: Path, interruptible: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("synth.certify.certify", lambda *_: signal.raise_signal(signal.SIGINT))
    assert main(["prove", str(kernel), "--spec", "attention"]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


def test_an_interrupted_run_says_where_it_is_kept(
    tmp_path: Path, interruptible: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def events() -> Iterator[Event]:
        yield Started("attention", (), "sm_90", "CPU", tmp_path / "runs" / "one")
        signal.raise_signal(signal.SIGINT)

    monkeypatch.chdir(tmp_path)
    assert show_run(events(), as_json=False) == 130
    assert "what was done so far is in runs/one\n" in capsys.readouterr().out
    monkeypatch.chdir(ROOT)
    assert show_run(events(), as_json=False) == 130
    assert f"is in {tmp_path}/runs/one\n" in capsys.readouterr().out


def test_prove_takes_settings(kernel: Path) -> None:
    assert main(["prove", str(kernel), "--spec", "attention", "--set", "causal=true"]) == 1  # it has no mask
    assert main(["prove", str(kernel), "--spec", "attention", "--set", "dtype=fp16", "--set", "D=128"]) == 0


def test_prove_writes_a_certificate_that_show_and_load_read(
    kernel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "certificate.json"
    assert main(["prove", str(kernel), "--spec", "attention", "--certificate", str(path), "--target", "sm_80"]) == 0
    capsys.readouterr()
    assert main(["show", str(path)]) == 0
    assert "assumptions" in capsys.readouterr().out
    assert main(["show", str(path), "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["format"] == FORMAT and all(case["ok"] for case in body["tests"]["crosscheck"])
    assert load(path).subject["settings"]["causal"] == "none"

    path.write_text(path.read_text().replace("attention", "detention", 1))
    assert main(["show", str(path)]) == 64
    assert "changed after it was issued" in capsys.readouterr().err


def test_proved_for_some_sizes_is_not_proved(capsys: pytest.CaptureFixture[str]) -> None:
    even = str(Path(__file__).parents[1] / "golden" / "proved" / "even_none.tile")
    assert main(["prove", even, "--spec", "attention"]) == 3
    assert "proved for sizes where M % 64 == 0 and N % 64 == 0, and for no others" in capsys.readouterr().out


def test_a_refuted_kernel_gets_no_certificate(wrong: Path, tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    assert main(["prove", str(wrong), "--spec", "attention", "--certificate", str(path)]) == 1
    assert not path.exists()


# ---- usage errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prove"], "kernel"),
        (["prove", "kernel.tile"], "--spec"),
        (["prove", "no-such-file.tile", "--spec", "attention"], "cannot be read"),
        (["nonsense"], "No such command"),
        (["prove-and-run", "attention", "--set", "causal"], "NAME=VALUE"),
        (["prove-and-run", "attention", "--set", "causal=sideways"], "not a choice"),
        (["prove-and-run", "attention", "--set", "casual=none"], "did you mean `causal`"),
        (["prove-and-run", "attention", "--target", "sm_12"], "sm_90"),
        (["prove-and-run", "attention", "--max-candidates", "0"], "--max-candidates"),
        (["prove", "kernel.tile", "--spec", "attention", "--target", "sm_12"], "sm_90"),
        (["prove", "kernel.tile", "--spec", "attention", "--certificate", "no-folder/it.json"], "cannot be written"),
        (["prove-and-run", "attention", "--out", "/dev/null/runs"], "/dev/null"),
        (["prove-and-run", "atention"], "did you mean `attention`"),
        (["show", "no-such-certificate.json"], "cannot be read"),
    ],
)
def test_usage_errors_exit_64_and_say_what_to_do(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 64
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []  # nothing was begun


def test_a_syntax_error_exits_64_with_a_caret(kernel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kernel.write_text(kernel.read_text().replace("sum(p, axis=1)", "sum(p, axis=1"))
    assert main(["prove", str(kernel), "--spec", "attention"]) == 64
    error = capsys.readouterr().err
    assert error.startswith("error[") and "^" in error and f"{kernel}:" in error


def test_a_type_error_exits_64_with_a_caret(kernel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kernel.write_text(kernel.read_text().replace("alpha[:, None]", "alpha"))
    assert main(["prove", str(kernel), "--spec", "attention"]) == 64
    assert "^" in capsys.readouterr().err


def test_settings_are_name_value_pairs() -> None:
    assert settings_of(["causal=true", " D = 128 "]) == {"causal": "true", "D": "128"}
    assert settings_of(None) == {}


# ---- when something fails ----------------------------------------------------------------------------


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of bash in which `synth` is the command, with what its pipes end with."""
    bash = ["bash", "-c", f"synth() {{ {sys.executable} -m synth \"$@\"; }}; {line}; exit ${{PIPESTATUS[0]}}"]
    variables = {**os.environ, **environment}
    return subprocess.run(bash, capture_output=True, text=True, cwd=ROOT, env=variables, check=False)


def test_a_fault_of_ours_is_neither_proved_nor_refuted(
    kernel: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("synth.certify.certify", lambda *_: {}["a bug"])
    arguments = ["prove", str(kernel), "--spec", "attention"]
    for more in ([], ["--json"]):
        assert main([*arguments, *more]) == 70
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.startswith("error: a fault of synth itself: KeyError: 'a bug'\n")
        assert "nothing is proved" in printed.err and "Traceback" not in printed.err
    monkeypatch.setenv("SYNTH_TRACEBACK", "1")
    assert main(arguments) == 70
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["synth specs | true", "synth --help | true", "synth specs --json | true"])
def test_output_that_nobody_reads_is_no_verdict(line: str) -> None:
    done = shell(line)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said_once() -> None:
    done = shell("synth specs > /dev/full")
    assert done.returncode == 64 and done.stderr.count("No space left on device") == 1


def test_names_that_a_terminal_cannot_show_are_spelt(kernel: Path) -> None:
    other = kernel.rename(kernel.with_name("kérnel.tile"))
    done = shell(f"synth fmt '{other}' --check", PYTHONIOENCODING="ascii")
    assert done.returncode == 1 and "k\\xe9rnel.tile is not formatted" in done.stderr


def test_an_interrupt_ends_a_comparison(
    interruptible: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = []

    def run(plan: Plan, place: Place) -> Iterator[Event]:
        begun.append(plan.arm)
        yield Started("attention", (), "sm_90", "CPU", tmp_path)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("synth.pipeline.prove_and_run", run)
    assert main(["compare", "attention", "--arms", "autotune,guided", "--out", str(tmp_path)]) == 130
    assert begun == ["autotune"] and capsys.readouterr().err == "interrupted\n"


def test_a_byte_order_mark_and_line_ends_change_nothing(
    kernel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fmt", str(kernel)]) == 0
    formatted = capsys.readouterr().out
    kernel.write_bytes(b"\xef\xbb\xbf" + kernel.read_bytes().replace(b"\n", b"\r\n"))
    assert main(["fmt", str(kernel)]) == 0
    assert capsys.readouterr().out == formatted
    spec = tmp_path / "spec.toml"
    source = (packaged_specs() / "attention.toml").read_bytes()
    spec.write_bytes(b"\xef\xbb\xbf" + source.replace(b"\n", b"\r\n"))
    assert load_spec(spec).name == "attention"


def test_a_device_is_not_read_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prove", "/dev/zero", "--spec", "attention"]) == 64
    assert main(["fmt", "/dev/zero"]) == 64
    assert main(["prove", "x.tile", "--spec", "/dev/zero"]) == 64
    assert capsys.readouterr().err.count("larger than 64 KiB") == 3


def test_every_command_has_an_example() -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        assert name == "bench" or f"synth {name} " in f"{command.epilog} ", name  # bench has its own --help


# ---- fmt ---------------------------------------------------------------------------------------------


def test_fmt_prints_checks_and_writes(kernel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fmt", str(kernel), "--write"]) == 0
    tidy = kernel.read_text()
    kernel.write_text(tidy.replace("s = scale * dot(", "s  =  scale*dot("))
    assert main(["fmt", str(kernel), "--check"]) == 1
    assert "--write" in capsys.readouterr().err
    assert main(["fmt", str(kernel)]) == 0
    assert capsys.readouterr().out == tidy
    assert main(["fmt", str(kernel), "--write"]) == 0
    assert main(["fmt", str(kernel), "--check"]) == 0
    assert kernel.read_text() == tidy


# ---- starting up ---------------------------------------------------------------------------------------


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"synth {__version__}\n"


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    heavy = ("torch", "triton", "z3", "lark", "sympy", "numpy")
    code = (
        "import sys; from synth.cli import main; main(['--help']);"
        f"print([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stderr.strip() == "[]"
    assert "prove-and-run" in done.stdout
    # processor time, so that a busy machine does not matter
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_proving_works_where_torch_and_triton_do_not_exist(kernel: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['triton'] = None; from synth.cli import main;"
        f"raise SystemExit(main(['prove', {str(kernel)!r}, '--spec', 'attention']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
