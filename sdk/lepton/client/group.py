"""What every group of methods is made of."""

from uuid import uuid4

from lepton.client.calls import Calls
from lepton.client.scope import Scope


class Group:
    """The methods of one kind of resource."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        self._calls, self._scope = calls, scope


def new_request_id() -> str:
    """The id under which one wish is sent, however often it has to be sent."""
    return str(uuid4())
