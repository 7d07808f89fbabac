"""The evidence of every proof, packed: SMT-LIB goals are long and alike, and a page is to stay small.

The texts of one candidate are deflated together and unpacked by the page when one of them is opened. Where even that
is more than the candidate's share of the page, long texts are cut, and the page says so and where the whole is.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from verifier.verdict import Evidence, Report

PAGE_BYTES = 1_500_000  # of evidence on a page, all candidates together
INLINE = 400  # characters; a shorter text stands on the page as it is
CUTS = (16_000, 8_000, 4_000, 2_000, 1_000, 500, 250)
KINDS = {"smt": "SMT-LIB 2, unsat", "algebra": "algebra, rule by rule", "interval": "intervals, step by step"}


@dataclass(frozen=True, slots=True)
class Item:
    """One piece of evidence: its text where it is short, else its number within the pack. `kept` characters of
    `length` are on the page."""

    name: str
    kind: str
    length: int
    kept: int
    text: str
    number: int


@dataclass(frozen=True, slots=True)
class Packed:
    """`items` by obligation; `pack` is base64 of a raw deflate stream of a JSON list of texts, empty if not needed."""

    items: dict[str, tuple[Item, ...]]
    pack: str


def pack(report: Report, room: int) -> Packed:
    """The evidence of one report in about `room` bytes."""
    every = [(r.id, e) for r in report.results for e in r.evidence]
    longest = max((len(e.body) for _, e in every), default=0)
    packed = Packed({}, "")
    for cut in (longest, *(c for c in CUTS if c < longest)):
        packed = _pack(every, cut)
        if len(packed.pack) <= room:
            break
    return packed


def _pack(every: Sequence[tuple[str, Evidence]], cut: int) -> Packed:
    items: dict[str, list[Item]] = {}
    texts: list[str] = []
    for obligation, e in every:
        kept = e.body[:cut]
        short = len(kept) <= INLINE
        item = Item(e.name, KINDS.get(e.kind, e.kind), len(e.body), len(kept), kept if short else "", len(texts))
        items.setdefault(obligation, []).append(item)
        if not short:
            texts.append(kept)
    return Packed({o: tuple(found) for o, found in items.items()}, _deflated(texts) if texts else "")


def _deflated(texts: Sequence[str]) -> str:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = squeeze.compress(json.dumps(texts, ensure_ascii=False).encode(errors="replace")) + squeeze.flush()
    return base64.b64encode(data).decode("ascii")
