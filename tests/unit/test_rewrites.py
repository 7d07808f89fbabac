"""Rewrites of structure and schedule: where they fit, what they give, and that the gate judges them."""

from __future__ import annotations

import pytest

from ir.diagnostics import SourceError
from ir.loader import bind, load_spec
from ir.parser import parse
from ir.printer import print_module
from synth.propose.rewrites import REWRITES, Rewrite, Subject

SOFTMAX = bind(load_spec("softmax"))
ROWS = """\
meta BR = 4
meta BC = 32

kernel softmax(t < cdiv(R, BR)):
    schedule num_warps = 4, num_stages = 1
    i = t * BR + arange(BR)
    m = full([BR], -inf, f32)
    l = zeros([BR], f32)
    for n in range(cdiv(C, BC)) carry m, l:
        j = n * BC + arange(BC)
        x = load(X[i[:, None], j[None, :]], mask=(i[:, None] < R) and (j[None, :] < C), other=0)
        x = where(j[None, :] < C, cast(x, f32), -inf)
        m_new = maximum(m, max(x, axis=1))
        l = l * exp(m - m_new) + sum(exp(x - m_new[:, None]), axis=1)
        m = m_new
    for n in range(cdiv(C, BC)):
        j = n * BC + arange(BC)
        here = (i[:, None] < R) and (j[None, :] < C)
        x = cast(load(X[i[:, None], j[None, :]], mask=here, other=0), f32)
        store(Y[i[:, None], j[None, :]], cast(exp(x - m[:, None]) / l[:, None], Y.dtype), mask=here)
"""


def rewrite(name: str) -> Rewrite:
    return next(r for r in REWRITES if r.name == name)


def results(name: str, text: str = ROWS) -> list[str]:
    return list(rewrite(name).texts(Subject.of(text, SOFTMAX)))


def test_every_rewrite_has_a_name_of_its_own_and_says_what_it_does() -> None:
    names = [r.name for r in REWRITES]
    assert len(set(names)) == len(names)
    assert all(len(r.doc.split()) > 10 for r in REWRITES)


def test_tiles_go_to_their_neighbours_within_limits() -> None:
    assert ["meta BC = 16" in text for text in results("halve-tile")] == [True]  # BR = 4 stays: below 16
    assert [text.splitlines()[:2] for text in results("double-tile")] == [
        ["meta BR = 8", "meta BC = 32"],
        ["meta BR = 4", "meta BC = 64"],
    ]
    large = ROWS.replace("BC = 32", "BC = 8192")
    assert results("double-tile", large) == []  # 4 x 8192 elements are what registers hold


def test_schedules_go_to_their_neighbours_within_limits() -> None:
    assert "num_warps = 8, num_stages = 1" in results("more-warps")[0]
    assert "num_warps = 2, num_stages = 1" in results("fewer-warps")[0]
    assert "num_warps = 4, num_stages = 2" in results("more-stages")[0]
    assert results("fewer-stages") == []
    assert ["maxnreg = 255" in t or "maxnreg = 224" in t for t in results("cap-registers")] == [True, True]
    capped = ROWS.replace("num_stages = 1", "num_stages = 1, maxnreg = 96")
    assert any("maxnreg" not in text for text in results("cap-registers", capped))


def test_what_is_no_kernel_of_the_spec_is_dropped() -> None:
    broken = Rewrite("rename", lambda subject: iter([parse(print_module(subject.module).replace("Y[", "Z["))]))
    same = Rewrite("nothing", lambda subject: iter([subject.module]))
    assert list(broken.texts(Subject.of(ROWS, SOFTMAX))) == list(same.texts(Subject.of(ROWS, SOFTMAX))) == []
    with pytest.raises(SourceError):
        Subject.of(ROWS.replace("Y[", "Z["), SOFTMAX)
