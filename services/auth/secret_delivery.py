"""Gives agents the secrets of the slices that they run: the only way on which a value leaves this service."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from chassis.clock import Clock
from chassis.kv import KV, LeaseNotFound, Put, absent
from lepton.errors import Aborted, FailedPrecondition, InvalidArgument, PermissionDenied
from lepton.internal.v1 import secrets_pb2 as pb
from lepton.names import SecretName, WorkloadName
from services.auth import layout
from services.auth.audit import AuditTrail, Deed
from services.auth.secrets import Secrets

ACTION: Final = "secrets.use"
_PIN_S: Final = 24 * 3600  # agents of a generation start within minutes; one that comes later gets the newest
_ATTEMPTS: Final = 4
_NODE_PART: Final = "/agent/"


SliceSecrets = Callable[[pb.GetSliceSecretsRequest], Awaitable[pb.GetSliceSecretsResponse]]
"""Knows which secrets a node was given with its slices: the scheduler."""


async def no_scheduler(_request: pb.GetSliceSecretsRequest) -> pb.GetSliceSecretsResponse:
    """What stands for the scheduler in an auth that knows none."""
    problem = "auth knows no scheduler; set `scheduler` in [peers] of its settings"
    raise FailedPrecondition("SECRETS_UNAVAILABLE", problem=problem)


class SecretDelivery:
    """Answers agents. Each value that leaves is in the audit log before it does."""

    def __init__(self, kv: KV, secrets: Secrets, given: SliceSecrets, audit: AuditTrail, clock: Clock) -> None:
        self._kv, self._secrets, self._audit, self._clock = kv, secrets, audit, clock
        self._given = given

    async def resolve(self, peer: str, request: pb.ResolveSecretsRequest) -> pb.ResolveSecretsResponse:
        """The values for the slices of a generation on the caller's node.

        Raises PermissionDenied (SLICE_NOT_ASSIGNED), NotFound, FailedPrecondition, Unavailable.
        """
        project = WorkloadName.parse(request.workload, "workload").project
        asked = pb.GetSliceSecretsRequest(
            node=node_of(peer),
            workload=request.workload,
            workload_uid=request.workload_uid,
            generation=request.generation,
        )
        try:
            given = await self._given(asked)
        except PermissionDenied as error:
            facts: Any = error.metadata
            raise PermissionDenied(error.reason, **facts) from error  # ours now: the scheduler's word is final
        for _ in range(_ATTEMPTS):
            answer = await self._opened(project, request, given.secrets)
            if answer is not None:
                return answer
        raise Aborted("WRITE_CONFLICT", name=request.workload)

    async def _opened(
        self, project: str, request: pb.ResolveSecretsRequest, references: Iterable[pb.SecretReference]
    ) -> pb.ResolveSecretsResponse | None:
        """The values, of the versions that others of the generation got; None when such were chosen just now."""
        pin_key = layout.secret_pin(request.workload_uid, request.generation)
        pinned = await self._kv.get(pin_key)
        chosen = pb.SecretPin() if pinned is None else pb.SecretPin.FromString(pinned.value)
        versions = {(each.secret, each.wanted_version): each.version for each in chosen.secrets}
        answer = pb.ResolveSecretsResponse()
        for reference in references:
            name = SecretName.parse(reference.secret, "secret")
            if name.project != project:
                raise InvalidArgument("INVALID_FIELD", fields={"secret": "must lie in the project of the workload"})
            wanted = versions.get((reference.secret, reference.version), reference.version)
            version, value = await self._secrets.value(name, wanted)
            answer.secrets.add(secret=reference.secret, wanted_version=reference.version, version=version, value=value)
        if pinned is None and answer.secrets and not await self._pin(pin_key, answer):
            return None
        for each in answer.secrets:
            await self._record(request, each)
        return answer

    async def _pin(self, key: str, answer: pb.ResolveSecretsResponse) -> bool:
        pin = pb.SecretPin()
        for each in answer.secrets:
            pin.secrets.add(secret=each.secret, wanted_version=each.wanted_version, version=each.version)
        lease = await self._kv.grant(_PIN_S, keep_alive=False)
        try:
            return (await self._kv.txn([absent(key)], [Put(key, pin.SerializeToString(), lease.id)])).succeeded
        except LeaseNotFound:
            return False

    async def _record(self, request: pb.ResolveSecretsRequest, given: pb.SecretValue) -> None:
        name = SecretName.parse(given.secret)
        use = pb.SecretUseRecord(workload=request.workload)
        use.use_time.FromDatetime(self._clock.now())
        deed = Deed(
            resource=f"{name}/versions/{given.version}",
            action=ACTION,
            reason=f"{request.workload} generation {request.generation}",
        )
        await self._audit.beside(deed, [], [Put(layout.secret_use(name, given.version), use.SerializeToString())])


def node_of(peer: str) -> str:
    """The id of the node whose agent has this SPIFFE id. PermissionDenied when it is no agent's."""
    _, found, node = peer.partition(_NODE_PART)
    if not found or not node or "/" in node:
        raise PermissionDenied("PEER_DENIED", peer=peer)
    return node
