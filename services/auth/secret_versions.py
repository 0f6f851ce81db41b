"""The versions of a secret: which one a job gets, and how their states change; pure."""

from datetime import datetime
from typing import Final

from lepton.auth.v1.secret_pb2 import Secret, SecretVersion
from lepton.errors import FailedPrecondition, NotFound

MOST: Final = 100
"""How many versions a secret describes; the oldest destroyed ones are forgotten first."""


def current(secret: Secret) -> int:
    """The newest version that is enabled; 0 = there is none."""
    enabled = [each.version for each in secret.versions if each.state == SecretVersion.ENABLED]
    return max(enabled, default=0)


def usable(secret: Secret, wanted: int) -> int:
    """The version that a job gets which asks for one (0 = the newest). FailedPrecondition when it gets none."""
    if secret.disabled:
        raise FailedPrecondition("SECRET_DISABLED", secret=secret.name)
    if wanted == 0:
        newest = current(secret)
        if newest == 0:
            raise FailedPrecondition("SECRET_VERSION_UNUSABLE", secret=secret.name, version="newest", state="not there")
        return newest
    state = next((each.state for each in secret.versions if each.version == wanted), None)
    if state != SecretVersion.ENABLED:
        told = "not there" if state is None else SecretVersion.State.Name(state)
        raise FailedPrecondition("SECRET_VERSION_UNUSABLE", secret=secret.name, version=str(wanted), state=told)
    return wanted


def add(secret: Secret, now: datetime) -> int:
    """Describe one more version; its number. FailedPrecondition when there are too many that still have a value."""
    if len(secret.versions) >= MOST:
        destroyed = [at for at, each in enumerate(secret.versions) if each.state == SecretVersion.DESTROYED]
        if not destroyed:
            raise FailedPrecondition("SECRET_VERSIONS_FULL", secret=secret.name, versions=str(len(secret.versions)))
        del secret.versions[destroyed[0]]
    number = max((each.version for each in secret.versions), default=0) + 1
    made = secret.versions.add(version=number, state=SecretVersion.ENABLED)
    made.create_time.FromDatetime(now)
    return number


def set_enabled(secret: Secret, version: int, *, enabled: bool) -> None:
    """Enable or disable a version, or (0) the secret as a whole. FailedPrecondition when its value is gone."""
    if version == 0:
        secret.disabled = not enabled
        return
    found = _version(secret, version)
    if found.state == SecretVersion.DESTROYED:
        state = SecretVersion.State.Name(found.state)
        raise FailedPrecondition("SECRET_VERSION_UNUSABLE", secret=secret.name, version=str(version), state=state)
    found.state = SecretVersion.ENABLED if enabled else SecretVersion.DISABLED


def destroy(secret: Secret, version: int, now: datetime) -> None:
    """Mark a version as gone; once more changes nothing."""
    found = _version(secret, version)
    if found.state != SecretVersion.DESTROYED:
        found.state = SecretVersion.DESTROYED
        found.destroy_time.FromDatetime(now)


def _version(secret: Secret, version: int) -> SecretVersion:
    for each in secret.versions:
        if each.version == version:
            return each
    raise NotFound("SECRET_VERSION_NOT_FOUND", secret=secret.name, version=str(version))
