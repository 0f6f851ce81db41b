"""The keys of projects' artifacts as a service or an agent knows them: asked for, kept in memory, asked for again."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc

from chassis.clock import Clock
from chassis.logs import logger
from lepton.artifacts import Cipher, KeyFile
from lepton.errors import (
    Aborted,
    DeadlineExceeded,
    FailedPrecondition,
    LeptonError,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from lepton.internal.v1.project_keys_pb2 import (
    GetArtifactKeysRequest,
    GetArtifactKeysResponse,
    GetNodeArtifactKeysRequest,
)
from lepton.internal.v1.project_keys_pb2_grpc import ProjectKeyServiceStub

log = logger(__name__)

Ask = Callable[[str], Awaitable[GetArtifactKeysResponse]]
"""Asks for the keys of a project, by its id, newest first."""
FRESH_S: Final = 30.0
"""How long keys are used without asking again: so long a rotation or the end of a project may go unnoticed."""

ENDED: Final = ("PROJECT_SHREDDED", "PROJECT_NOT_FOUND")
"""The reasons for which there will never be keys again; after any other what is known goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    keys: Mapping[str, bytes]
    cipher: Cipher
    asked_s: float


class ArtifactKeys:
    """Ciphers by project. What is known goes on while nobody answers; what was destroyed is forgotten."""

    def __init__(self, ask: Ask, clock: Clock, *, fresh_s: float = FRESH_S) -> None:
        self._ask, self._clock, self._fresh_s = ask, clock, fresh_s
        self._known: dict[str, _Known] = {}
        self._asking: dict[str, asyncio.Lock] = {}

    async def learn(self, project: str, *, anew: bool = False) -> Mapping[str, bytes]:
        """The keys of a project, the one that wraps first; from memory if they are fresh and not wanted anew.

        Raises NotFound, PermissionDenied, Unavailable, FailedPrecondition (PROJECT_SHREDDED, ARTIFACT_KEYS_UNKNOWN).
        """
        async with self._asking.setdefault(project, asyncio.Lock()):
            known = self._known.get(project)
            if known is not None and not anew and self._clock.monotonic() - known.asked_s < self._fresh_s:
                return known.keys
            try:
                answer = await self._ask(project)
            except PermissionDenied:
                self._known.pop(project, None)
                raise
            except LeptonError as error:
                if error.reason in ENDED:
                    self._known.pop(project, None)
                    error.domain = ""  # as our own: the caller shall hear it
                    raise
                if known is None:
                    raise _unknown(project, error) from error
                log.warning("keys of artifacts not refreshed: those that are known go on", project=project, error=error)
                return known.keys
            keys = {each.key_id: each.key for each in answer.keys}
            cipher = Cipher(KeyFile.of(keys)) if known is None or known.keys != keys else known.cipher
            self._known[project] = _Known(keys=keys, cipher=cipher, asked_s=self._clock.monotonic())
            return keys

    def of(self, project: str) -> Cipher:
        """The cipher of a project whose keys were learnt. Raises FailedPrecondition (ARTIFACT_KEYS_UNKNOWN)."""
        known = self._known.get(project)
        if known is None:
            raise FailedPrecondition("ARTIFACT_KEYS_UNKNOWN", project=f"projects/{project}")
        return known.cipher

    def forget(self, project: str) -> None:
        """Keep the keys of a project no longer."""
        self._known.pop(project, None)


def _unknown(project: str, error: LeptonError) -> LeptonError:
    """What the caller is told: that it may try again, or that there are no keys; why is in the log."""
    if isinstance(error, (Unavailable, ResourceExhausted, DeadlineExceeded, Aborted)):
        return error
    log.error("keys of artifacts refused", project=project, error=error)
    return FailedPrecondition("ARTIFACT_KEYS_UNKNOWN", project=f"projects/{project}")


def ask_auth(channel: grpc.aio.Channel) -> Ask:
    """As a service that stores or reads artifacts asks auth."""
    stub: Any = ProjectKeyServiceStub(channel)

    async def ask(project: str) -> GetArtifactKeysResponse:
        answer: GetArtifactKeysResponse = await stub.GetArtifactKeys(
            GetArtifactKeysRequest(project=f"projects/{project}")
        )
        return answer

    return ask


def ask_as_node(channel: grpc.aio.Channel) -> Ask:
    """As the agent of a node asks, which gets the keys of the projects that it runs."""
    stub: Any = ProjectKeyServiceStub(channel)

    async def ask(project: str) -> GetArtifactKeysResponse:
        answer: GetArtifactKeysResponse = await stub.GetNodeArtifactKeys(
            GetNodeArtifactKeysRequest(project=f"projects/{project}")
        )
        return answer

    return ask
