"""How errors are shown: what happened, its reason, and what to do next."""

from collections.abc import Iterator
from typing import Final

from lepton.cli import exits
from lepton.errors import LeptonError

_HINTS: Final = {
    "NOT_SIGNED_IN": "lepton login --user NAME",
    "TOKEN_MISSING": "lepton login --user NAME",
    "TOKEN_INVALID": "lepton login --user NAME",
    "TOKEN_REVOKED": "lepton login --user NAME",
    "REFRESH_TOKEN_REFUSED": "lepton login --user NAME",
    "UNAUTHENTICATED": "lepton login --user NAME",
    "PERMISSION_DENIED": "lepton whoami   shows the roles that you hold",
    "PROJECT_MISSING": "lepton projects use PROJECT, or --project PROJECT",
    "PROFILE_MISSING": "lepton up, or set LEPTON_HOME to where a stack keeps its state",
    "UNREACHABLE": "lepton status   shows whether the local stack runs; lepton up starts it",
    "JOB_NOT_FOUND": "lepton jobs list",
    "MODEL_NOT_FOUND": "lepton models list",
    "VERSION_NOT_FOUND": "lepton models versions MODEL",
    "DEPLOYMENT_NOT_FOUND": "lepton deployments list",
    "POOL_NOT_FOUND": "lepton pools list",
    "QUEUE_NOT_FOUND": "lepton queues list",
    "FLOATING_RESOURCE_NOT_FOUND": "lepton floating-resources list",
    "JOB_NOT_ENDED": "lepton jobs cancel JOB",
    "WAIT_TIMED_OUT": "it goes on without you; wait longer with --timeout",
}


def exit_code(error: LeptonError) -> int:
    """The exit code that stands for the error."""
    number: int = error.code.value[0]
    return exits.of_status(number)


def lines(error: LeptonError) -> Iterator[str]:
    """The error in lines of text."""
    yield f"error: {error.message}"
    yield f"  reason: {error.reason} ({error.code.name}{f', said by {error.domain}' if error.domain else ''})"
    for path, what in error.fields.items():
        yield f"  {path}: {what}"
    if error.retry_after_s and error.reason == "RATE_LIMITED":
        yield f"  try again in {error.retry_after_s:g} s"
    if hint := _HINTS.get(error.reason):
        yield f"  try: {hint}"
