"""A row that could not be predicted, and why."""

from dataclasses import dataclass
from typing import Any, Final, Self

from lepton.inference.v1 import batch_prediction_pb2 as pb

Reason = pb.BadRow.Reason
_LONGEST: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """The row's index in the dataset, a reason of `BadRow.Reason` by name, and words."""

    row: int
    reason: str
    message: str

    @classmethod
    def of(cls, row: int, reason: "pb.BadRow.Reason.ValueType", message: str) -> Self:
        """The row with its reason; long messages are cut."""
        return cls(row=row, reason=Reason.Name(reason), message=message[:_LONGEST])

    def to_json(self) -> dict[str, Any]:
        """It as a JSON object."""
        return {"row": self.row, "reason": self.reason, "message": self.message}

    @classmethod
    def from_json(cls, document: Any) -> Self:
        """What `to_json` made. Raises ValueError, KeyError, TypeError."""
        Reason.Value(document["reason"])
        return cls(row=int(document["row"]), reason=document["reason"], message=str(document["message"]))

    def to_proto(self) -> pb.BadRow:
        """It as a message."""
        return pb.BadRow(row=self.row, reason=Reason.Value(self.reason), message=self.message)
