"""What a question of access says about the request that it is about."""

from chassis.clock import Clock
from chassis.conditions import NO_ATTRIBUTES, Attributes
from lepton.auth.v1.access_service_pb2 import RequestAttributes
from services.auth import permissions

_MINUTE_S = 60


def attributes_of(asked: RequestAttributes, permission: str) -> Attributes:
    """The attributes that a request for a permission would have: none where no method that needs it has any."""
    minute = int(asked.time.seconds // _MINUTE_S) if asked.HasField("time") else None
    if permission in permissions.asking():
        return Attributes(pools=tuple(asked.pools), priority=asked.priority, minute=minute)
    return Attributes(minute=minute) if minute is not None else NO_ATTRIBUTES


def minute_of(asked: RequestAttributes, clock: Clock) -> int:
    """The minute (since 1970, UTC) that a question is about: now, if it does not say."""
    return int(asked.time.seconds if asked.HasField("time") else clock.now().timestamp()) // _MINUTE_S
