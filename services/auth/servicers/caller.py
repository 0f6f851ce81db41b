"""Who calls: the principal that the middleware established."""

from chassis.call import Call, Principal, current_call
from lepton.errors import Unauthenticated


def the_call() -> Call:
    """The call being served."""
    call = current_call()
    if call is None:
        raise RuntimeError("a servicer runs within a call only")
    return call


def the_caller() -> Principal:
    """The principal of the call being served."""
    principal = the_call().principal
    if principal is None:
        raise Unauthenticated("TOKEN_MISSING")
    return principal
