"""How much of compliance fits: all of it goes to every service in one message, and no project may fill it alone."""

from collections.abc import Iterable
from typing import Final

from google.protobuf.message import Message

from lepton.auth.v1.compliance_pb2 import ComplianceExemption, CompliancePolicy, DataLabels
from lepton.errors import InvalidArgument, ResourceExhausted
from services.auth.compliance.state import ComplianceState

MOST_BYTES: Final = 2 << 20  # of a message of 4 MiB
_LARGEST: Final[dict[type[Message], int]] = {CompliancePolicy: 32 << 10, ComplianceExemption: 4 << 10, DataLabels: 512}
_OF_A_PROJECT: Final[dict[type[Message], int]] = {CompliancePolicy: 16, ComplianceExemption: 256, DataLabels: 500}
_IN_ALL: Final[dict[type[Message], int]] = {CompliancePolicy: 256, ComplianceExemption: 2_000, DataLabels: 5_000}
_WORDS: Final[dict[type[Message], tuple[str, str]]] = {
    CompliancePolicy: ("compliance_policy", "compliance policies"),
    ComplianceExemption: ("exemption", "exemptions"),
    DataLabels: ("data_labels", "labelled artifacts"),
}


def check_size(made: Message) -> None:
    """Raise InvalidArgument when one is larger than any needs to be."""
    most, (field, _) = _LARGEST[type(made)], _WORDS[type(made)]
    if made.ByteSize() > most:
        bad = f"has {made.ByteSize()} bytes, {most} at the most are allowed; say it in fewer words"
        raise InvalidArgument("INVALID_FIELD", fields={field: bad})


def check_room(state: ComplianceState, made: Message, project: str) -> None:
    """Raise ResourceExhausted when no more fit; `project` is `projects/{project}`, empty for the organisation's."""
    check_size(made)
    kind = type(made)
    known = [each.name for each in _all(state) if isinstance(each, kind)]
    _, words = _WORDS[kind]
    if project and sum(name.startswith(f"{project}/") for name in known) >= _OF_A_PROJECT[kind]:
        raise _full(_OF_A_PROJECT[kind], f"{words} of {project}")
    if len(known) >= _IN_ALL[kind]:
        raise _full(_IN_ALL[kind], words)
    if sum(each.ByteSize() for each in _all(state)) + made.ByteSize() > MOST_BYTES:
        raise _full(MOST_BYTES, "bytes of policies, exemptions and labels")


def _all(state: ComplianceState) -> Iterable[CompliancePolicy | ComplianceExemption | DataLabels]:
    yield from state.policies.values()
    yield from state.exemptions.values()
    yield from state.data_labels.values()


def _full(limit: int, what: str) -> ResourceExhausted:
    return ResourceExhausted("COMPLIANCE_LIMIT", limit=str(limit), what=what)
