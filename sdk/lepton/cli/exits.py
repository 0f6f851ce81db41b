"""What the exit codes of `lepton` mean."""

from typing import Final

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130
_GRPC: Final = 10  # and the number of the gRPC status

MEANINGS: Final = {
    OK: "done",
    FAILED: "the work itself failed: a job, a deployment, the local stack, a file",
    USAGE: "wrong usage",
    11: "CANCELLED",
    12: "UNKNOWN",
    13: "INVALID_ARGUMENT",
    14: "DEADLINE_EXCEEDED",
    15: "NOT_FOUND",
    16: "ALREADY_EXISTS",
    17: "PERMISSION_DENIED",
    18: "RESOURCE_EXHAUSTED",
    19: "FAILED_PRECONDITION",
    20: "ABORTED",
    21: "OUT_OF_RANGE",
    22: "UNIMPLEMENTED",
    23: "INTERNAL",
    24: "UNAVAILABLE",
    26: "UNAUTHENTICATED",
    INTERRUPTED: "interrupted by Ctrl-C",
}


def of_status(number: int) -> int:
    """The exit code of a gRPC status, by its number."""
    return _GRPC + number
