"""What surrounds every call, as data: the order of the middleware, and the shape that each one has."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from chassis.call import Call
from chassis.method import Method

Enter = Callable[[Call, Any], None]  # with the request of a call that has one, with None for a stream of requests
Receive = Callable[[Call, Any], None]
Leave = Callable[[Call], None]
Around = Callable[[Any], Any]

# Outermost first. A test asserts it; chassis.stack builds it.
ORDER: Final = (
    "tracing",
    "access_log",
    "audit",
    "errors",
    "deadline",
    "authentication",
    "authorisation",
    "rate_limit",
    "validation",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What one middleware does around the calls of one method; what it does not do costs nothing.

    Plain functions instead of async context managers: only one of them waits for anything, and eight context managers
    cost a tenth of a call (bench/README.md). `enter` and `receive` raise to refuse; `leave` runs for every call,
    innermost first.
    """

    enter: Enter | None = None
    receive: Receive | None = None  # sees each request message
    recover: Leave | None = None  # sees the calls that failed, before `leave`, and says what call.error is
    leave: Leave | None = None  # sees every call
    around: Around | None = None  # wraps the handler itself, for what has to wait: behind all `enter` and `receive`


class Middleware(Protocol):
    """A middleware: decides once per method what it has to do around its calls."""

    def bind(self, method: Method) -> Steps:
        """The steps for this method."""
        ...
