"""Identity: what a program is called never changes it, what it does always does."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ir import ast
from ir.loader import bind, load_spec, packaged_specs
from ir.parser import parse
from ir.printer import print_module
from ir.spec import Bound
from synth.propose import Candidate
from synth.propose.mutate import mutants
from synth.propose.seeds import wanted_settings
from synth.propose.tree import one_place
from synth.search.identity import identity

loaded = cache(load_spec)
BOUND = bind(loaded("attention"))
SHIPPED = sorted(packaged_specs().glob("*/*.tile"))

SIMPLE = """
meta BM = 16
scratch P[B, M]: f32
scratch R[B, M]: f32

kernel first(b < B, t < cdiv(M, BM)):
    i = t * BM + arange(BM)
    x = cast(i, f32)
    y = x * scale
    store(P[b, i], x, mask=i < M)
    store(R[b, i], y, mask=i < M)

kernel second(b < B, h < H, t < cdiv(M, BM)):
    i = t * BM + arange(BM)
    total = zeros([BM], f32)
    for n in range(N) carry total:
        total = total + load(P[b, i], mask=i < M, other=0)
    store(LSE[b, h, i], total, mask=i < M)
"""


def bound_for(path: Path, text: str) -> Bound:
    settings = {k: int(v) if v.isdigit() else v for k, v in wanted_settings(text).items()}
    return bind(loaded(path.parent.with_suffix(".toml")), settings)


def names_bound(node: Any) -> Iterator[str]:
    match node:
        case ast.Assign(name, _) | ast.Axis(name, _) | ast.Meta(name, _) | ast.Scratch(name):
            yield name
        case ast.For(variable=variable):
            yield variable
    if isinstance(node, tuple):
        for item in node:
            yield from names_bound(item)
    elif is_dataclass(node) and not isinstance(node, ast.Span):
        for field in fields(node):
            yield from names_bound(getattr(node, field.name))


def renamed(module: ast.Module, seed: int) -> str:
    """Every name that the module binds, its kernels' too, under another one; comments gone."""
    chance = random.Random(seed)
    old = sorted(set(names_bound(module)))
    # such as the typed core itself makes up (m_1, n_step), and the old names in other places
    new = [*(n for n in old if chance.random() < 0.5), *(f"zz{k}_1" for k in range(len(old)))]
    new = [n if n in old or chance.random() < 0.5 else f"{n}_step" for n in new][: len(old)]
    chance.shuffle(new)
    names = dict(zip(old, new, strict=True))

    def again(node: Any) -> Any:
        if isinstance(node, tuple):
            return tuple(again(item) for item in node)
        if not is_dataclass(node) or isinstance(node, type | ast.Span):
            return node
        changed: dict[str, Any] = {f.name: again(getattr(node, f.name)) for f in fields(node)}
        match node:
            case ast.Name(id):
                changed["id"] = names.get(id, id)
            case ast.Assign(name) | ast.Axis(name) | ast.Meta(name) | ast.Scratch(name) | ast.Element(name):
                changed["name"] = names.get(name, name)
            case ast.DTypeOf(tensor):
                changed["tensor"] = names.get(tensor, tensor)
            case ast.For(variable, carried=carried):
                changed |= {"variable": names[variable], "carried": tuple(names[c] for c in carried)}
            case ast.Kernel(name):
                changed["name"] = f"k_{name}"
        return type(node)(**{k: "" if k == "comment" else v for k, v in changed.items()})

    return print_module(again(module))


def test_shipped_kernels_are_different_programs() -> None:
    met: dict[str, Path] = {}
    for path in SHIPPED:
        text = path.read_text()
        own = identity(text, bound_for(path, text))
        assert not own.startswith("text-"), path
        assert own not in met, f"{path} is {met.get(own)}"
        met[own] = path


@pytest.mark.parametrize("path", SHIPPED[::9], ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_names_and_comments_do_not_count(path: Path) -> None:
    text = path.read_text()
    bound, module = bound_for(path, text), parse(text)
    other = renamed(module, len(text))
    assert other != print_module(module) and identity(other, bound) == identity(text, bound), other


@pytest.mark.parametrize("spec, kernel", [("attention_bwd", "fused_atomic_none"), ("decode", "chunks")])
def test_every_broken_form_is_another_program(spec: str, kernel: str) -> None:
    path = packaged_specs() / spec / f"{kernel}.tile"
    text = path.read_text()
    bound = bound_for(path, text)
    broken = list(mutants(Candidate(kernel, text)))
    found = {identity(m.text, bound) for m in broken}
    assert len(broken) > 5 and len(found) == len(broken)
    assert identity(text, bound) not in found


@pytest.mark.parametrize(
    "before, after",
    [
        ("    i = t * BM + arange(BM)\n    x", "    schedule num_warps = 8\n    i = t * BM + arange(BM)\n    x"),
        ("meta BM = 16", "meta BM = 32"),
        ("store(P[b, i], x", "store(P[b, i], y"),  # which of two locals
        ("load(P[b, i]", "load(R[b, i]"),  # which of two scratch tensors of one shape
        ("range(N)", "range(M)"),  # which size
        ("x * scale", "scale * x"),  # no algebra: only names are taken out
        ("scratch R[B, M]: f32", "scratch R[B, M]: f32\nscratch U[B]: f32"),  # never written: no such kernel is proved
        ("scratch R[B, M]: f32", "scratch R[B, M]: f16"),
    ],
)
def test_what_a_program_does_counts(before: str, after: str) -> None:
    assert SIMPLE.count(before) == 1
    assert identity(SIMPLE.replace(before, after), BOUND) != identity(SIMPLE, BOUND)


@pytest.mark.parametrize(
    "before, after",
    [
        ("meta BM = 16", "meta BN = 4\nmeta BM = BN * 4"),
        ("cdiv(M, BM)", "cdiv(M, 16)"),
        ("scratch P[B, M]: f32\nscratch R[B, M]: f32", "scratch R[B, M]: f32\nscratch P[B, M]: f32"),
        ("range(N)", "range(0, N, 1)"),
        ("    x = cast(i, f32)", "\n    # the row\n    x = cast( i , f32 )  # as a float\n"),
    ],
)
def test_how_it_is_written_does_not(before: str, after: str) -> None:
    assert before in SIMPLE
    assert identity(SIMPLE.replace(before, after), BOUND) == identity(SIMPLE, BOUND)


def test_one_other_name_anywhere_is_another_program() -> None:
    module, own = parse(SIMPLE), identity(SIMPLE, BOUND)
    names = sorted({*names_bound(module), "M", "N", "B", "H"})

    def another(node: Any) -> Iterator[ast.Name]:
        if isinstance(node, ast.Name):
            yield from (ast.Name(name) for name in names if name != node.id)

    forms = list(one_place(module, another))
    random.Random(1).shuffle(forms)
    kernels = [k for form in forms[:90] if not (k := identity(print_module(form), BOUND)).startswith("text-")]
    assert len(kernels) > 20 and own not in kernels


def test_a_verdict_is_relative_to_the_spec_and_its_settings() -> None:
    """The same kernel is right for one mask and wrong for another: never twins."""
    spec = load_spec("attention")
    found = {identity(SIMPLE, bind(spec, {"causal": c})) for c in ("none", "top_left", "bottom_right")}
    longer = replace(spec, source=spec.source.replace("max = 65536", "max = 65535", 1))
    assert longer.source != spec.source
    assert len(found | {identity(SIMPLE, bind(longer))}) == 4


@pytest.mark.parametrize("text", ["", "no kernel at all", SIMPLE.replace("total +", "totl +")])
def test_a_text_that_is_no_program_is_itself_only(text: str) -> None:
    found = identity(text, BOUND)
    assert found.startswith("text-") and found == identity(text, BOUND) != identity(text + "\n", BOUND)
