"""Who may read a trace: whoever is signed in, and knows all the projects that its spans name."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from chassis.access import PolicyReplica
from chassis.call import Principal
from chassis.permissions import ORGANISATION
from lepton.errors import Unauthenticated
from lepton.names import project_of

_NAMING: Final = ("lepton.job", "lepton.workload")
"""The attributes of spans that name what they worked for."""
_SCHEME: Final = "bearer "


def caller(access: PolicyReplica, authorization: str) -> Principal:
    """Who asks, by the header of the request. Raises Unauthenticated, and Unavailable while there is no policy."""
    if authorization[: len(_SCHEME)].lower() != _SCHEME:
        raise Unauthenticated("TOKEN_MISSING")
    return access.verify(authorization[len(_SCHEME) :])


def may_read(access: PolicyReplica, principal: Principal, spans: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a caller may see a trace; what names no project may be seen by whoever knows its id."""
    known = access.projects_of(principal)
    named = {project_of(str(span["attributes"].get(key, ""))) for span in spans for key in _NAMING} - {None}
    return ORGANISATION in known or named <= known
