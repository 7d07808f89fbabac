"""One writer per run: a lock that ends with its process, so that nobody ever has to decide that one is stale.

With SQLite it is a byte of the file beside the database, locked the POSIX way: the kernel drops such a lock when its
process ends, however it ends, and a forked child does not inherit it. With PostgreSQL it is an advisory lock of a
connection: the server drops it when the connection breaks. Within a process the same run is refused twice, too.
A process keeps one `Locks` per database: closing it drops every POSIX lock the process has on that file.
"""

from __future__ import annotations

import fcntl
import os
from threading import Lock

from sqlalchemy import Connection, Engine, text

NAMESPACE = 0x53594E54  # of our advisory locks among others in a shared database: "SYNT"


class Locks:
    """The runs that this process writes to, and a look at whether some process writes to one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._file: int | None = None
        self._held: dict[int, Connection | None] = {}
        self._guard = Lock()

    def take(self, run: int) -> bool:
        """False when this or another process has it."""
        with self._guard:
            if run in self._held:
                return False
            if self._engine.dialect.name == "sqlite":
                if not self._lock_byte(run, fcntl.LOCK_EX):
                    return False
                self._held[run] = None
                return True
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            taken = connection.scalar(text("SELECT pg_try_advisory_lock(:n, :r)"), {"n": NAMESPACE, "r": run})
            if taken:
                self._held[run] = connection
            else:
                connection.close()
            return bool(taken)

    def release(self, run: int) -> None:
        """Nothing happens when it is not held."""
        with self._guard:
            if run not in self._held:
                return
            connection = self._held.pop(run)
            if connection is None:
                fcntl.lockf(self._open(), fcntl.LOCK_UN, 1, run)
            else:
                connection.execute(text("SELECT pg_advisory_unlock(:n, :r)"), {"n": NAMESPACE, "r": run})
                connection.close()

    def taken(self, run: int) -> bool:
        """Whether some process writes to it."""
        with self._guard:
            if run in self._held:
                return True
            if self._engine.dialect.name == "sqlite":
                if not self._lock_byte(run, fcntl.LOCK_SH):
                    return True
                fcntl.lockf(self._open(), fcntl.LOCK_UN, 1, run)
                return False
            with self._engine.connect() as connection:
                query = text(
                    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = :n AND objid = :r "
                    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                )
                return bool(connection.scalar(query, {"n": NAMESPACE, "r": run}))

    def close(self) -> None:
        """Release all."""
        for run in tuple(self._held):
            self.release(run)
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _lock_byte(self, run: int, how: int) -> bool:
        try:
            fcntl.lockf(self._open(), how | fcntl.LOCK_NB, 1, run)
        except BlockingIOError:
            return False
        return True

    def _open(self) -> int:
        if self._file is None:
            self._file = os.open(f"{self._engine.url.database}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        return self._file
