"""The few-shot library: what is chosen, what is never shown, and that an author who uses examples gets more certified.

The author here is a script behind a real HTTP server that speaks the Messages API: it changes the tile sizes of the
first example in its prompt and, shown none, writes from templates of its own of which few are right. So the experiment
shows that the library reaches the author through the real prompt and that this raises the certified share; it says
nothing of how much a language model gains.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from messages_server import KEY, MessagesServer, Says, submit

from ir.loader import bind, load_spec, packaged_specs, parse_spec
from synth.jobs import Built, Checked, Prove, prove
from synth.propose import Candidate
from synth.propose.model import Example, ModelProposer, ModelSettings
from synth.search.budget import Budget
from synth.search.tried import Brief, Tried
from synth.state import InMemory
from synth.state.library import examples, nearness, same
from synth.state.store import Store

SOFTMAX = bind(load_spec("softmax"), {})
HALF = bind(load_spec("softmax"), {"dtype": "fp16"})
FOLDER = packaged_specs() / "softmax"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A run for softmax in bf16 that certified two kernels, and one in which a certificate was tampered with."""
    folder = tmp_path_factory.mktemp("library")
    with Store.open(str(folder / "synth.db")) as opened:
        run = opened.begin(SOFTMAX, {}, folder)
        for path in sorted(FOLDER.glob("*.tile")):
            proof = prove(Prove(path.stem, path.read_text()), SOFTMAX)
            assert proof.certificate is not None
            built, checked = Built(proof.certificate), Checked(proof.certificate, 1)
            run.put(Tried(Candidate(path.stem, path.read_text()), path.stem, proof, built, checked), 0)
        wrong = proof.certificate.with_section("lowered", {})
        forged = Tried(Candidate("forged", "kernel of another text"), "f", proof, Built(wrong), Checked(wrong, 1))
        run.put(forged, 0)
        run.finish("finished", 1.0)
        yield opened


# ---- what is chosen ------------------------------------------------------------------------------------


def test_winners_come_with_their_provenance(store: Store) -> None:
    chosen = examples(store, HALF)
    assert chosen and {e.name for e in chosen} <= {path.stem for path in FOLDER.glob("*.tile")}
    run = store.load("last")
    certificates = {row.certificate for row in run.candidates() if row.certified}
    for example in chosen:
        match = re.fullmatch(r"run (\S+), certificate (\w+)", example.provenance)
        assert match and match[1] == run.id and match[2] in certificates
        assert (example.spec, example.settings) == ("softmax", "dtype = bf16")
    assert examples(store, HALF) == chosen


def test_the_answer_is_not_shown_under_whatever_name(store: Store) -> None:
    assert examples(store, SOFTMAX) == ()
    assert examples(store, SOFTMAX, exclude_same=False) != ()
    source = SOFTMAX.spec.source.replace('"softmax"', '"another"') + "# copied\n"
    assert same(bind(parse_spec(source), {}), SOFTMAX) and not same(HALF, SOFTMAX)
    assert examples(store, bind(parse_spec(source), {})) == ()


def test_without_runs_what_ships_is_shown_nearest_first() -> None:
    bound = bind(load_spec("attention"), {"causal": "true"})
    chosen = examples(None, bound)
    assert len(chosen) == 3 and all(e.provenance.startswith("shipped: ") for e in chosen)
    assert nearness(bound, bind(load_spec("alibi"), {})) > nearness(bound, bind(load_spec("layernorm"), {}))
    assert "shipped: layernorm" not in " ".join(e.provenance for e in chosen)
    assert nearness(bound, bound) == 1.0


def test_no_more_is_shown_than_there_is_room_for(store: Store) -> None:
    shortest = min(len(path.read_text()) for path in FOLDER.glob("*.tile"))
    assert examples(store, HALF, limit_tokens=shortest // 4 - 1) == ()
    (only,) = examples(store, HALF, limit_tokens=-(-shortest // 4))
    assert len(only.text) == shortest
    assert len(examples(store, HALF, number=1)) == 1


# ---- what it is worth to an author that uses it ------------------------------------------------------------

RIGHT = (FOLDER / "online.tile").read_text()
OWN = (  # what the author writes unaided: the usual slips, and once the right thing
    RIGHT.replace("cast(y, Y.dtype)", "y"),
    RIGHT.replace("x = where(j[None, :] < C, x, -inf)\n", "x = x\n"),
    RIGHT,
    RIGHT.replace("(i[:, None] < R) and (j[None, :] < C)", "j[None, :] < C"),
)


def author(request: dict[str, Any]) -> Says:
    """Four kernels: the first example of the prompt with other tiles, or the author's own."""
    prompt = "\n".join(block["text"] for block in request["system"])
    shown = re.search(r"# Kernels that were proved.*?```\n(.*?)\n```", prompt, re.DOTALL)
    if shown is None:
        return Says(*(submit(kernel, "from my own template") for kernel in OWN))
    tiles = (("4", "1024"), ("8", "512"), ("2", "2048"), ("16", "256"))
    return Says(*(submit(_with_tiles(shown[1], tile) + "\n", f"the example with tiles {tile}") for tile in tiles))


def _with_tiles(kernel: str, tile: tuple[str, str]) -> str:
    values = iter(tile)
    return re.sub(r"^(meta \w+ = )\d+", lambda m: m[1] + next(values), kernel, count=2, flags=re.MULTILINE)


def certified_share(journal: InMemory, shown: tuple[Example, ...], url: str | None) -> float:
    """Of the kernels that one conversation proposes, the share the real gate proves. Without a URL: replayed."""
    settings = ModelSettings("claude-opus-5-5", turns=1, base_url=url)
    proposer = ModelProposer(settings, Budget(), journal, lambda event: None, shown, replay=url is None)
    drafts = next(proposer.converse(Brief(HALF, "sm_90")))
    return sum(certified(draft.text) for draft in drafts) / len(drafts)


@cache
def certified(text: str) -> bool:
    return prove(Prove("draft", text), HALF).certificate is not None


def test_examples_raise_the_certified_share_live_and_replayed(
    store: Store, monkeypatch: pytest.MonkeyPatch, record_property: Any, tmp_path: Path
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path))
    library = examples(store, HALF)
    journals = {False: InMemory(), True: InMemory()}
    with MessagesServer(author) as server:
        live = {with_: certified_share(journals[with_], library if with_ else (), server.url) for with_ in journals}
    replayed = {with_: certified_share(journals[with_], library if with_ else (), None) for with_ in journals}
    record_property("certified share without and with the library", [replayed[False], replayed[True]])
    print(f"certified share: {replayed[False]:.0%} without the library, {replayed[True]:.0%} with it")
    assert replayed == live
    assert replayed[True] > replayed[False] > 0
