"""Secrets that a submission names: rules on where programs find them, and who may give them to a program."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final, Protocol

from chassis.call import Principal, current_call
from lepton.auth.v1.secret_service_pb2 import CheckSecretRequest
from lepton.auth.v1.secret_service_pb2_grpc import SecretServiceStub
from lepton.errors import FailedPrecondition, InvalidArgument, NotFound
from lepton.names import SecretName

PERMISSION: Final = "secrets.use"
_FORBIDDEN: Final = ("LD_", "PYTHON", "LEPTON_", "TORCHELASTIC_")


class Mount(Protocol):
    """A secret, and where a program finds it: SecretMount of any API."""

    secret: str
    version: int
    env: str
    file: str


class Access(Protocol):
    """Decides permissions by the policy."""

    def require(self, principal: Principal, permission: str, resource: str) -> None: ...


class SecretGate(Protocol):
    """Lets a submission name secrets, or raises."""

    async def admit(self, mounts: Iterable[Any], project: str, path: str, taken: Collection[str] = ()) -> None:
        """Raise what a caller must hear who may not, or cannot, give these secrets to a program of the project."""
        ...


class Gate:
    """Asks the policy whether the caller may, and auth whether there is such a secret."""

    def __init__(self, access: Access, auth: Any) -> None:
        self._access, self._auth = access, SecretServiceStub(auth)

    async def admit(self, mounts: Iterable[Any], project: str, path: str, taken: Collection[str] = ()) -> None:
        """InvalidArgument naming fields below `path`, PermissionDenied, NotFound, FailedPrecondition, Unavailable.

        `taken` are the variables that the program sets itself. Services of the mesh have asked before they call.
        """
        mounts = list(mounts)
        if not mounts:
            return
        problems = dict(violations(mounts, project, path, taken))
        if problems:
            raise InvalidArgument("INVALID_FIELD", fields=problems)
        call = current_call()
        principal = call.principal if call is not None else None
        if principal is None or principal.is_peer:
            return
        for secret in sorted({each.secret for each in mounts}):
            self._access.require(principal, PERMISSION, secret)
        for secret, version in sorted({(each.secret, each.version) for each in mounts}):
            try:
                await self._auth.CheckSecret(CheckSecretRequest(name=secret, version=version))
            except (NotFound, FailedPrecondition) as error:
                facts: Any = error.metadata
                raise type(error)(error.reason, **facts) from error  # it is the caller's to correct


class ClosedGate:
    """Lets nothing that names secrets pass: what stands for the gate where there is no mesh."""

    async def admit(self, mounts: Iterable[Any], project: str, path: str, taken: Collection[str] = ()) -> None:
        """FailedPrecondition (SECRETS_UNAVAILABLE)."""
        if any(True for _ in mounts):
            raise FailedPrecondition("SECRETS_UNAVAILABLE", problem="the service does not follow the policy of a mesh")


def violations(
    mounts: Iterable[Mount], project: str, path: str, taken: Collection[str] = ()
) -> Iterator[tuple[str, str]]:
    """Every field that is wrong, and why; pure. `project` is the id of the program's project."""
    mounts = list(mounts)
    for at, mount in enumerate(mounts):
        if SecretName.parse(mount.secret, f"{path}[{at}].secret").project != project:
            yield f"{path}[{at}].secret", "must lie in the project that the program runs in"
        if mount.env.startswith(_FORBIDDEN):
            yield f"{path}[{at}].env", f"must not be {mount.env}: Lepton, the loader or the interpreter obeys it"
        if mount.env and mount.env in taken:
            yield f"{path}[{at}].env", f"is {mount.env}, which the environment sets too; leave one of them out"
    for place in ("env", "file"):
        for name, count in Counter(getattr(each, place) for each in mounts).items():
            if name and count > 1:
                yield path, f"{count} secrets go to {name}; each needs a place of its own"
    files = sorted(each.file for each in mounts if each.file)
    for one in files:
        if any(other.startswith(f"{one}/") for other in files):
            yield path, f"{one} is a file and the folder of another secret; rename one of them"
