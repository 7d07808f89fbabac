"""The evidence of every proof, packed: SMT-LIB goals are long and alike, and a page is to stay small.

The texts of one candidate are deflated together and unpacked by the page when one of them is opened. Where even that
is more than the candidate's share of the page, long texts are cut, and the page says so and where the whole is.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from verifier.verdict import Evidence, Report

PAGE_BYTES = 1_200_000  # of packed evidence on a page, all candidates together
INLINE = 400  # characters; a shorter text stands on the page as it is
CUTS = (16_000, 8_000, 4_000, 2_000, 1_000, 500, 250)
KINDS = {"smt": "SMT-LIB 2, unsat", "algebra": "algebra, rule by rule", "interval": "intervals, step by step"}


@dataclass(frozen=True, slots=True)
class Packed:
    """`short` texts by obligation, as (name, kind, text); how many `long` ones each has; and `pack`, base64 of a raw
    deflate stream of JSON: by obligation, (name, kind, length, the text as far as there is room)."""

    short: dict[str, tuple[tuple[str, str, str], ...]]
    long: dict[str, int]
    pack: str


def pack(report: Report | None, room: int) -> Packed:
    """The evidence of one report, the long texts in about `room` bytes."""
    results = report.results if report else ()
    short = {r.id: tuple(_named(e) for e in r.evidence if len(e.body) <= INLINE) for r in results}
    long = {r.id: [e for e in r.evidence if len(e.body) > INLINE] for r in results}
    longest = max((len(e.body) for found in long.values() for e in found), default=0)
    if not longest:
        return Packed(short, {}, "")
    packed = ""
    for cut in (longest, *(c for c in CUTS if c < longest)):
        packed = _deflated({o: [(*_named(e)[:2], len(e.body), e.body[:cut]) for e in es] for o, es in long.items()})
        if len(packed) <= room:
            break
    return Packed(short, {o: len(found) for o, found in long.items()}, packed)


def _named(e: Evidence) -> tuple[str, str, str]:
    return e.name, KINDS.get(e.kind, e.kind), e.body


def _deflated(texts: Mapping[str, Sequence[tuple[str, str, int, str]]]) -> str:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = squeeze.compress(json.dumps(texts, ensure_ascii=False).encode(errors="replace")) + squeeze.flush()
    return base64.b64encode(data).decode("ascii")
