"""The `synth` command: arguments in, exit codes out. Everything heavy is imported inside the command that needs it.

Exit codes: 0 proved (or done), 1 refuted (or refused), 2 unproved, 3 proved for some sizes only, 64 a usage error or a
text that is not accepted, 130 interrupted.
"""

from __future__ import annotations

import importlib.util
import io
import math
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

SOME_SIZES = 3
USAGE_ERROR = 64
OUR_FAULT = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130
UNREAD = 141  # what a shell makes of SIGPIPE; 0 would say `proved`

app = typer.Typer(
    name="synth",
    help="Attention kernels that are proved equal to their formula, for every size, before they run.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Spec = Annotated[str, typer.Argument(help="A spec file, or the name of one that ships: attention.", show_default=False)]
Kernel = Annotated[Path, typer.Argument(help="A kernel file.", show_default=False)]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Fix an option or static dimension; repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. Every error is said in one line, faults of ours too: Python would
    end with 1 for them, which says `refuted`."""
    from ir.diagnostics import SourceError
    from synth.errors import Unavailable

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 is no reason to stop
    try:
        code = app(args=arguments, prog_name="synth", standalone_mode=False)
        sys.stdout.flush()  # a disk that is full, a reader that is gone: now is the time to say so
    except SourceError as error:
        print(error.render(), file=sys.stderr)
        return USAGE_ERROR
    except TyperException as error:
        if message := error.format_message():
            print(f"error: {message}\n  = hint: synth --help says what is accepted", file=sys.stderr)
        return USAGE_ERROR
    except Unavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
    except BrokenPipeError:
        return _unread()
    except SystemExit as stop:  # which Typer and Rich make of a broken pipe, with 1 for a code
        if isinstance(stop.__context__, BrokenPipeError):
            return _unread()
        raise
    except OSError as error:
        _discard_output()
        print(f"error: {error}\n  = hint: does it exist, and may you write there?", file=sys.stderr)
        return USAGE_ERROR
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except Exception as error:
        if os.environ.get("SYNTH_TRACEBACK"):
            traceback.print_exc()
        said = f"{type(error).__name__}: {error}".removesuffix(": ")
        hint = "nothing is proved by this; SYNTH_TRACEBACK=1 synth ... shows where it happened, for a report"
        print(f"error: a fault of synth itself: {said}\n  = hint: {hint}", file=sys.stderr)
        return OUR_FAULT
    if code == INTERRUPTED:  # which Typer makes of Ctrl-C
        print("interrupted", file=sys.stderr)
    return code if isinstance(code, int) else 0


def _unread() -> int:
    """`synth specs | head`: nobody reads on, and nothing is left to say."""
    _discard_output()
    return UNREAD


def _discard_output() -> None:
    """Python flushes standard output at its end, and would complain once more of what cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version(wanted: bool) -> None:
    if wanted:
        from synth import __version__

        print(f"synth {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def settings_of(items: list[str] | None) -> dict[str, str]:
    """["causal=true", "D=128"] as a dict. Raises a usage error for an item without '='."""
    found = {}
    for item in items or []:
        name, equals, value = item.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise typer.BadParameter(f"--set takes NAME=VALUE, not {item!r}")
        found[name.strip()] = value.strip()
    return found


def numbers_of(items: list[str] | None, option: str) -> dict[str, float]:
    """["N=4096"] as a dict of numbers. Raises a usage error."""
    found = {}
    for item in items or []:
        name, _, value = item.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise typer.BadParameter(f"{option} takes NAME=VALUE with a finite number, not {item!r}")
        found[name.strip()] = number
    return found


def writable(path: Path) -> Path:
    """A file that can be written; a usage error before the work that it is for, not after."""
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise typer.BadParameter(f"{path} cannot be written; give a file in a folder that is there")
    return path


def read(path: Path) -> str:
    """A kernel file's text; a usage error when it cannot be read."""
    from ir.parser import MAX_SOURCE

    try:
        with path.open(encoding="utf-8-sig") as file:  # some editors put a byte order mark first
            return file.read(MAX_SOURCE + 1)  # more is refused, so no need to read a device to its end
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} cannot be read: {error}") from error


@app.command(epilog="synth prove kernel.tile --spec attention --set causal=true --certificate kernel.json")
def prove(
    kernel: Kernel,
    spec: Annotated[str, typer.Option(help="A spec file, or the name of one that ships.", show_default=False)],
    settings: Settings = None,
    certificate: Annotated[Path | None, typer.Option(help="When proved, write here what synth.load runs.")] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option("--target", help="GPUs the certificate is compiled for; repeatable [default: the spec's]"),
    ] = None,
    as_json: Json = False,
) -> int:
    """Prove or refute one kernel. Exit code 0: proved, 1: refuted with a counterexample, 2: unproved, 3: proved for
    some sizes only, those that the kernel requires."""
    from ir.loader import bind, load_spec
    from synth.certify import certify
    from synth.cli_search import target_of
    from synth.view import show_report

    bound = bind(load_spec(spec), settings_of(settings))
    named = [target_of(bound, target) for target in targets or ()]
    if certificate is not None:
        writable(certificate)
    text = read(kernel)
    found = certify(text, bound, str(kernel))
    lowered = None
    if certificate is not None and found.certificate is not None:
        from synth.ship import NotLowered, ship

        if not named and importlib.util.find_spec("triton"):
            named = [target_of(bound, None)]
        try:
            shipped = ship(found, bound, named)
            lowered = shipped.body["lowered"]
            shipped.save(certificate)
        except NotLowered as error:
            found.certificate.save(certificate)
            print(f"proved, but synth.load cannot run it: {error}", file=sys.stderr)
    show_report(found.report, text, str(kernel), as_json, lowered)
    code = found.report.verdict.exit_code
    return code if code or found.report.answers else SOME_SIZES


@app.command(epilog="synth specs · synth specs --json")
def specs(as_json: Json = False) -> int:
    """The specs that ship, and the proved kernels that come with each."""
    from synth.view import show_specs

    show_specs(as_json)
    return 0


@app.command(epilog="synth show runs/20260101-120000-attention/certificates/64x64-exp-running-w4s2.json")
def show(certificate: Annotated[Path, typer.Argument(show_default=False)], as_json: Json = False) -> int:
    """What a certificate claims, assumes and rests on."""
    from synth.view import show_certificate
    from verifier.certificate import Certificate, CertificateError

    try:
        loaded = Certificate.load(certificate)
    except CertificateError as error:
        raise typer.BadParameter(str(error)) from error
    show_certificate(loaded, as_json)
    return 0


@app.command(epilog="synth rounding attention.json --size N=4096 --range Q=4 --range V=1 --parameter scale=0.125")
def rounding(
    certificate: Annotated[Path, typer.Argument(show_default=False)],
    size: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A size; repeatable.")] = None,
    range_: Annotated[
        list[str] | None, typer.Option("--range", metavar="NAME=VALUE", help="The largest |x| of a tensor; repeatable.")
    ] = None,
    parameter: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A parameter; repeatable.")] = None,
    saved: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="The error of a saved input; repeatable.")
    ] = None,
    as_json: Json = False,
) -> int:
    """How far floats can be from the formula's value, at these sizes and inputs. What is not given is taken from the
    spec: the first shape it names for measuring, the parameters' defaults; ranges of 4, saved inputs exact to their
    dtype. Exit code 2 when the certificate has no bound."""
    from synth.view_rounding import show_rounding

    sizes, ranges = numbers_of(size, "--size"), numbers_of(range_, "--range")
    parameters, errors = numbers_of(parameter, "--parameter"), numbers_of(saved, "--saved")
    return show_rounding(certificate, sizes, ranges, parameters, errors, as_json)


@app.command(epilog="synth fmt kernel.tile · synth fmt kernel.tile --check · synth fmt kernel.tile --write")
def fmt(
    kernel: Kernel,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 when the file is not formatted.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Rewrite the file instead of printing it.")] = False,
) -> int:
    """Format a kernel file."""
    from ir.printer import format_source

    text = read(kernel)
    formatted = format_source(text, str(kernel))
    if check:
        if formatted != text:
            print(f"{kernel} is not formatted; synth fmt {kernel} --write does it", file=sys.stderr)
        return int(formatted != text)
    if write:
        kernel.write_text(formatted, encoding="utf-8")
    else:
        print(formatted, end="")
    return 0


from synth import cli_check, cli_report, cli_resources, cli_search, cli_state  # noqa: E402  their commands join the app

cli_search.add_to(app)
cli_check.add_to(app)
cli_report.add_to(app)
cli_state.add_to(app)
cli_resources.add_to(app)

if __name__ == "__main__":
    raise SystemExit(main())
