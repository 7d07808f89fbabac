"""The database of runs: SQLite in a file by default, PostgreSQL by URL. Nothing in it is trusted; see `answers`.

An answer is committed before `record` returns. With SQLite that is in WAL mode with synchronous=NORMAL: a commit is
written to the log before it returns but not forced to the disk, so killing the process loses nothing, and only the
machine losing power can lose the last commits (it never leaves a broken database).
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from ir.spec import Bound
from synth import runfolder
from synth.errors import Unavailable
from synth.state.checker import checker, versions
from synth.state.locks import Locks
from synth.state.run import Run
from synth.state.tables import SCHEMA, Base, RunRow, SchemaRow

DEFAULT = "runs/synth.db"
BUSY = 30_000  # milliseconds that a writer waits for another one


class StateError(Unavailable):
    """The database or a run in it cannot be used; the message says what to do."""


def url_of(place: str) -> URL:
    """A database URL, or the path of an SQLite file, as SQLAlchemy has it. Raises StateError."""
    if "://" not in place:
        return URL.create("sqlite", database=place)
    try:
        url = make_url(place)
    except ArgumentError as error:
        raise StateError(f"{place} is no database URL: {error}") from error
    if url.drivername in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "postgresql+psycopg"):
        raise StateError(f"--db takes a file, sqlite:///FILE or postgresql://..., not {url.drivername}://")
    return url


@dataclass(frozen=True, slots=True)
class Store:
    """Open with `Store.open`; a context manager."""

    reading: Engine
    writing: Engine
    locks: Locks

    @staticmethod
    def open(place: str = DEFAULT, create: bool = True) -> Store:
        """Makes the tables where there are none. Raises StateError; without `create` also where there is no file."""
        url = url_of(place)
        shown = url.render_as_string(hide_password=True) if "://" in place else place
        if url.drivername == "sqlite":
            if url.database in (None, "", ":memory:"):
                raise StateError("runs are kept in a file or on a server; give --db a path")
            path = Path(str(url.database))
            if not create and not path.is_file():
                raise StateError(f"there is no database {path} yet; `synth prove-and-run SPEC` makes one")
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            engine = create_engine(url)
            _configure(engine)
            writing = engine.execution_options(immediate=True)
            _make_tables(writing, shown)
        except ModuleNotFoundError as error:
            raise StateError(f"{shown} needs a driver: pip install 'synth-kernels[postgres]'") from error
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
            raise StateError(f"the database {shown} cannot be used: {reason}") from error
        return Store(engine, writing, Locks(engine))

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Gives up every run this store writes to."""
        self.locks.close()
        self.reading.dispose()

    @contextmanager
    def read(self) -> Iterator[Session]:
        with Session(self.reading) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that is committed at the end."""
        with Session(self.writing) as session, session.begin():
            yield session

    # ---- runs ----

    def begin(self, bound: Bound, plan: dict[str, Any], out: Path) -> Run:
        """A new run, with a folder of its name under `out`, that this process writes to."""
        taken: set[str] = set()  # elsewhere, by runs of this second in the same database
        while True:
            folder = runfolder.create(out, bound.spec.name, taken)
            try:
                return self._run(self._insert(bound, plan, folder))
            except IntegrityError:
                shutil.rmtree(folder)
                taken.add(folder.name)

    def _insert(self, bound: Bound, plan: dict[str, Any], folder: Path) -> int:
        now = time.time()
        row = RunRow(
            id=folder.name, folder=str(folder.absolute()), spec=bound.spec.name, spec_text=bound.spec.source,
            spec_path=bound.spec.path, settings=dict(bound.settings), target=str(plan.get("target", bound.spec.target)),
            plan=plan, versions=versions(), checker=checker(), status="running", writer=_me(), created=now, updated=now,
        )  # fmt: skip
        with self.write() as session:
            session.add(row)
            session.flush()
            number = row.number
            if not self.locks.take(number):
                raise StateError(f"run {folder.name} is locked by another process")
        return number

    def load(self, name: str) -> Run:
        """A run to read: by its id, the beginning of one, or "last". Raises StateError."""
        with self.read() as session:
            newest = select(RunRow.number, RunRow.id).order_by(RunRow.number.desc())
            rows = session.execute(newest).all()
        if not rows:
            raise StateError("there are no runs yet; `synth prove-and-run SPEC` makes one")
        if name == "last":
            return self._run(rows[0].number)
        found = [r for r in rows if r.id == name] or [r for r in rows if name and r.id.startswith(name)]
        if not found:
            raise StateError(f"no such run: {name}; `synth runs` lists them")
        if len(found) > 1:
            some = ", ".join(r.id for r in found[:4])
            raise StateError(f"{len(found)} runs begin with {name}: {some}{', ...' if len(found) > 4 else ''}")
        return self._run(found[0].number)

    def resume(self, name: str) -> Run:
        """A run to go on with. Raises StateError when a process still writes to it, or the checker is another one now:
        its proofs are not this checker's."""
        run = self.load(name)
        if not self.locks.take(run.number):
            raise StateError(f"run {run.id} is still being written by {run.writer}; stop that first")
        if run.checker != checker():
            self.locks.release(run.number)
            raise StateError(
                f"the checker has changed since run {run.id} began, so its proofs do not count any more; "
                f"`synth prove-and-run --replay {run.id}` does them again"
            )
        with self.write() as session:
            row = session.get_one(RunRow, run.number)
            row.status, row.writer, row.updated = "running", _me(), time.time()
        runfolder.complete(run.folder)
        return self._run(run.number)

    def runs(self) -> list[Run]:
        """All of them, newest first."""
        with self.read() as session:
            numbers = session.scalars(select(RunRow.number).order_by(RunRow.number.desc())).all()
        return [self._run(number) for number in numbers]

    def _run(self, number: int) -> Run:
        with self.read() as session:
            return Run(self, session.get_one(RunRow, number))


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


# ---- engines ----


def _configure(engine: Engine) -> None:
    """SQLite: WAL, and a transaction that will write takes the write lock at once: one that reads first and then
    finds that another has written meanwhile could only fail."""
    if engine.dialect.name != "sqlite":
        return

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin below, not where Python's module thinks fit
        for pragma in (f"busy_timeout = {BUSY}", "journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _make_tables(engine: Engine, shown: str) -> None:
    """One process makes them when several come at once."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(1398361684)"))
        if not inspect(connection).has_table(SchemaRow.__tablename__):
            Base.metadata.create_all(connection)
            connection.execute(SchemaRow.__table__.insert().values(version=SCHEMA))  # type: ignore[attr-defined]
        found = connection.scalar(select(SchemaRow.version))
    if found != SCHEMA:
        raise StateError(
            f"{shown} has tables of version {found}, this is version {SCHEMA}; give another --db, "
            "or read it with the version of synth that wrote it"
        )
