"""Who asks: the user or service account behind the call being served."""

from chassis.call import Principal, current_call


def caller() -> Principal | None:
    """The principal of the call being served; None for peers of the mesh and outside of calls."""
    call = current_call()
    if call is None or call.principal is None or call.principal.is_peer:
        return None
    return call.principal


def creator() -> str:
    """The caller's name, for what it makes; empty where a service makes it."""
    who = caller()
    return who.name if who is not None else ""
