"""What batch predictions keep in the artifact store, as JSON: the plan, the report of a shard, the result's manifest.

    plan      {"format": "lepton.batch_plan/1", "onnx": "sha256:..", "signature": {..}, "input": "ARRAYS|JSONL|CSV",
               "output": "NPZ|JSONL", "batch_size": 64, "allow_missing": false, "rows": 1797,
               "shards": [{"start": 0, "rows": 64, "data": ".."}, ..]}
    report    {"format": "lepton.batch_shard/1", "shard": 0, "start": 0, "rows": 64, "file": "sha256:..", "bad": [..]}
    manifest  {"format": "lepton.batch_result/1", "model_version": "..", "package": "..", "dataset": "..", "rows": 1797,
               "output": "NPZ", "is_complete": true, "shards": [{"start", "rows", "file", "bad"}], "bad_rows": [..]}

All of them are the same whenever they are made of the same, whoever makes them: a shard that is run twice is reported
once, and a leader that repeats another's work gets the same digests.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from lepton.artifacts import parse_digest
from lepton.errors import InvalidArgument
from lepton.models import Signature, Tensor
from services.inference.batch.bad_row import BadRow

_PLAN: Final = "lepton.batch_plan/1"
_SHARD: Final = "lepton.batch_shard/1"
RESULT: Final = "lepton.batch_result/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Consecutive rows of the dataset, with the digest of what they hold."""

    start: int
    rows: int
    data: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What every worker of a batch prediction needs to know."""

    onnx: str
    signature: Signature
    input: str
    output: str
    batch_size: int
    shards: tuple[Shard, ...]
    allow_missing: bool = False

    @property
    def rows(self) -> int:
        """Rows of the dataset."""
        return sum(shard.rows for shard in self.shards)

    def render(self) -> bytes:
        """The plan's bytes."""
        signature = {
            "inputs": [tensor.to_json() for tensor in self.signature.inputs],
            "outputs": [tensor.to_json() for tensor in self.signature.outputs],
        }
        return _bytes(
            {
                "format": _PLAN,
                "onnx": self.onnx,
                "signature": signature,
                "input": self.input,
                "output": self.output,
                "batch_size": self.batch_size,
                "allow_missing": self.allow_missing,
                "rows": self.rows,
                "shards": [{"start": s.start, "rows": s.rows, "data": s.data} for s in self.shards],
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The plan that bytes hold. Raises InvalidArgument."""
        try:
            document = _document(data, _PLAN)
            return cls(
                onnx=parse_digest(document["onnx"]),
                signature=Signature(
                    inputs=tuple(map(Tensor.from_json, document["signature"]["inputs"])),
                    outputs=tuple(map(Tensor.from_json, document["signature"]["outputs"])),
                ),
                input=str(document["input"]),
                output=str(document["output"]),
                batch_size=int(document["batch_size"]),
                allow_missing=bool(document["allow_missing"]),
                shards=tuple(
                    Shard(start=int(each["start"]), rows=int(each["rows"]), data=parse_digest(each["data"]))
                    for each in document["shards"]
                ),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _invalid(error) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReport:
    """A shard that is done: its file, and its rows that are bad."""

    shard: int
    start: int
    rows: int
    file: str
    bad: tuple[BadRow, ...]

    def render(self) -> bytes:
        """The report's bytes."""
        bad = [each.to_json() for each in self.bad]
        return _bytes(
            {
                "format": _SHARD,
                "shard": self.shard,
                "start": self.start,
                "rows": self.rows,
                "file": self.file,
                "bad": bad,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The report that bytes hold. Raises InvalidArgument."""
        try:
            document = _document(data, _SHARD)
            return cls(
                shard=int(document["shard"]),
                start=int(document["start"]),
                rows=int(document["rows"]),
                file=parse_digest(document["file"]),
                bad=tuple(map(BadRow.from_json, document["bad"])),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _invalid(error) from error


def manifest(facts: dict[str, Any], rows: int, output: str, reports: Sequence[ShardReport], *, complete: bool) -> bytes:
    """The result's manifest; `facts` say what it was made of. The shards are in the dataset's order."""
    ordered = sorted(reports, key=lambda report: report.start)
    shards = [{"start": r.start, "rows": r.rows, "file": r.file, "bad": len(r.bad)} for r in ordered]
    bad = [each.to_json() for report in ordered for each in report.bad]
    known = {"format": RESULT, "rows": rows, "output": output, "is_complete": complete}
    return _bytes({**facts, **known, "shards": shards, "bad_rows": bad})


def _document(data: bytes, form: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(data)
    if document["format"] != form:
        raise ValueError(f"its format is {document['format']!r}, not {form!r}")
    return document


def _bytes(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _invalid(error: Exception) -> InvalidArgument:
    return InvalidArgument("BATCH_INPUT_INVALID", problem=f"a document of the batch is none: {error}")
