"""What a caller may not know: which projects there are in which it has no role."""

from typing import Final, Protocol

from chassis.call import Principal, current_call
from lepton.scheduler.v1.queue_pb2 import Queue

_EVERYWHERE: Final = "*"


class Scopes(Protocol):
    """Says where a caller has a role."""

    def projects_of(self, principal: Principal) -> frozenset[str]:
        """The ids of projects; `*` is all of them."""
        ...


def conceal(queue: Queue, scopes: Scopes | None) -> Queue:
    """The queue, without the projects that the present caller may not know of. Who changes queues knows of all."""
    call = current_call()
    principal = call.principal if call is not None else None
    if scopes is None or principal is None or principal.is_peer or not queue.projects:
        return queue
    known = scopes.projects_of(principal)
    if _EVERYWHERE not in known:
        queue.projects[:] = [each for each in queue.projects if each.removeprefix("projects/") in known]
    return queue
