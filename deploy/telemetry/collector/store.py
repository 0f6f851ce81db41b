"""Spans on disk: a SQLite database with one row a span."""

import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from deploy.telemetry.collector.span import Span

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS spans (
    trace_id TEXT NOT NULL,
    span_id TEXT NOT NULL,
    span TEXT NOT NULL,
    PRIMARY KEY (trace_id, span_id)
) WITHOUT ROWID
"""


class SpanStore:
    """Keeps spans; a span that is received twice is kept once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        self._database = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        # Telemetry may be lost in a power cut; work may not. So no fsync for each batch.
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute(_SCHEMA)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def add(self, spans: Iterable[Span]) -> None:
        """Stores spans in one transaction."""
        rows = [span.row() for span in spans]
        with self._database:
            self._database.execute("BEGIN")
            self._database.executemany("INSERT OR REPLACE INTO spans VALUES (?, ?, ?)", rows)
            self._database.execute("COMMIT")

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """The spans of a trace by start time; empty when there is none."""
        rows = self._database.execute("SELECT span FROM spans WHERE trace_id = ?", (trace_id,))
        return sorted((json.loads(text) for (text,) in rows), key=lambda span: (span["start_ns"], span["span_id"]))
