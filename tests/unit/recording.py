"""A process that records answers until it is killed; light, for tests start it twenty times."""

from __future__ import annotations

from multiprocessing.connection import Connection

from synth.state.store import StateError, Store


def record(url: str, run: str, said: Connection) -> None:
    """Go on with a run: count, and say each number after it is recorded; or say why that is refused."""
    store = Store.open(url)
    try:
        journal = store.resume(run)
    except StateError as error:
        said.send(str(error))
        return
    for k in range(10**6):
        if journal.answer("prove", str(k)) is None:
            journal.record("prove", str(k), {"k": k, "padding": "x" * 5000})
            said.send(k)
