"""The tables, one class each. All of one run hangs on its number; the same tables serve SQLite and PostgreSQL.

Values of many parts are kept as JSON in a text column (Python's JSON, which has infinities and NaN, as PostgreSQL's
own has not), long ones compressed. Times of day are seconds since 1970, durations seconds, money US dollars.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import ForeignKey, ForeignKeyConstraint, Index, LargeBinary, String, Text, TypeDecorator
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from synth.state.answers import pack, unpack

SCHEMA = 1  # changes with any table


class Plain(TypeDecorator[str]):
    """Text. What no database keeps, NUL and lone surrogates, becomes U+FFFD: a text with either is no kernel, and the
    journal's answers have it as it was."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return value.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class Json(TypeDecorator[Any]):
    """A JSON value in a text column."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        return json.dumps(value, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


class Packed(TypeDecorator[Any]):
    """A long JSON value, compressed."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> bytes | None:
        return None if value is None else pack(value)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> Any:
        return None if value is None else unpack(value)


class Base(DeclarativeBase):
    type_annotation_map = {str: Plain, dict[str, Any]: Json, list[Any]: Json}


class SchemaRow(Base):
    """One row: the version of these tables."""

    __tablename__ = "schema"
    version: Mapped[int] = mapped_column(primary_key=True)


class RunRow(Base):
    """A run. `id` is its folder's name; `status` is "running" until it ends, also after it was killed. `writer` says
    which process began or resumed it last, for messages: who writes is decided by a lock (`synth.state.locks`)."""

    __tablename__ = "runs"
    number: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(String(200), unique=True)
    folder: Mapped[str]
    spec: Mapped[str]
    spec_text: Mapped[str]
    spec_path: Mapped[str]
    settings: Mapped[dict[str, Any]]
    target: Mapped[str]
    plan: Mapped[dict[str, Any]]
    versions: Mapped[dict[str, Any]]
    checker: Mapped[str]
    status: Mapped[str]
    writer: Mapped[str]
    created: Mapped[float]
    updated: Mapped[float]
    seconds: Mapped[float] = mapped_column(default=0.0)
    usd: Mapped[float] = mapped_column(default=0.0)


class AnswerRow(Base):
    """What the world outside answered a run (`synth.state.Journal`); `number` counts them in the order they came."""

    __tablename__ = "answers"
    number: Mapped[int] = mapped_column(primary_key=True)
    run: Mapped[int] = mapped_column(ForeignKey("runs.number"))
    kind: Mapped[str] = mapped_column(String(20))
    key: Mapped[str]
    answer: Mapped[dict[str, Any]] = mapped_column(Packed)
    created: Mapped[float]
    __table_args__ = (Index("answers_asked", "run", "kind", "key", unique=True),)


class CandidateRow(Base):
    """A candidate and how far it came. `verdict` is NULL for a text that is no kernel; `report` is that of its proof,
    less the evidence, which is in its certificate; `stage` and `problem` say where and why it got no further."""

    __tablename__ = "candidates"
    run: Mapped[int] = mapped_column(ForeignKey("runs.number"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    text: Mapped[str]
    identity: Mapped[str]
    twin: Mapped[str]
    source: Mapped[str]
    parents: Mapped[list[Any]]
    expected: Mapped[list[Any]]
    choices: Mapped[list[Any]]
    note: Mapped[str]
    step: Mapped[int]
    slot: Mapped[int]
    verdict: Mapped[str | None]
    obligations: Mapped[dict[str, Any]]
    report: Mapped[dict[str, Any] | None] = mapped_column(Packed)
    resources: Mapped[list[Any]]
    stage: Mapped[str]
    problem: Mapped[str]
    certified: Mapped[bool]
    certificate: Mapped[str | None] = mapped_column(ForeignKey("certificates.id"))
    seconds: Mapped[float]  # since the run began
    __table_args__ = (Index("candidates_named", "run", "name", unique=True),)


class CertificateRow(Base):
    """A certificate's body under the hash of its content. Data: whoever reads one checks the hash, and trusts none."""

    __tablename__ = "certificates"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    body: Mapped[dict[str, Any]] = mapped_column(Packed)


class MeasurementRow(Base):
    """A candidate's time at one shape, or with `candidate` NULL that of standard PyTorch, `name` by name."""

    __tablename__ = "measurements"
    number: Mapped[int] = mapped_column(primary_key=True)
    run: Mapped[int] = mapped_column(ForeignKey("runs.number"))
    candidate: Mapped[int | None]
    name: Mapped[str]
    rung: Mapped[str]
    shapes: Mapped[str]
    shape: Mapped[str]
    sizes: Mapped[dict[str, Any]]
    seconds: Mapped[float]
    tflops: Mapped[float]
    share: Mapped[float | None]
    device: Mapped[str]
    __table_args__ = (
        ForeignKeyConstraint(["run", "candidate"], ["candidates.run", "candidates.ordinal"]),
        Index("measurements_of", "run", "candidate"),
    )


class ProofRow(Base):
    """A refuted or unproved kernel's answer, shared by all runs (`synth.state.cache`)."""

    __tablename__ = "proofs"
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    answer: Mapped[dict[str, Any]] = mapped_column(Packed)
    created: Mapped[float]
