"""The secrets of a program: fetched from auth when it starts, put where it finds them, and known for taking out."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from chassis.clock import Clock, SystemClock
from lepton.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable
from lepton.internal.v1.secrets_pb2 import ResolveSecretsRequest, ResolveSecretsResponse
from lepton.internal.v1.secrets_pb2_grpc import SecretDeliveryServiceStub
from lepton.scheduler.v1.program_pb2 import Program, SecretMount
from services.agent.environment import checked
from services.agent.order import SliceOrder
from services.agent.secret_files import SecretFiles
from services.agent.secret_mask import NOTHING, Mask

FOLDER: Final = "LEPTON_SECRETS"
_TIMEOUT_S: Final = 10.0
_PATIENCE_S: Final = 60.0  # with an auth, or a scheduler behind it, that is being restarted
_BACKOFF_S: Final = (0.1, 2.0)
_TRANSIENT: Final = (Unavailable, DeadlineExceeded, ResourceExhausted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What auth has given: kept in memory for as long as the generation runs here."""

    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    mask: Mask = NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a program finds."""

    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    folder: Path | None = None  # where its files lie
    mask: Mask = NOTHING


NONE: Final = Fetched()


class Secrets:
    """Fetches and lays out; `channel` is that of auth, None where the agent has none."""

    def __init__(self, channel: Any, files: SecretFiles, clock: Clock) -> None:
        self._stub: Any = SecretDeliveryServiceStub(channel) if channel is not None else None
        self._files, self._clock = files, clock

    async def fetch(
        self, mounts: Sequence[SecretMount], *, workload: str, workload_uid: str, generation: int
    ) -> Fetched:
        """The values of a generation's secrets; patient while auth is away.

        PermissionDenied (SLICE_NOT_ASSIGNED), NotFound, FailedPrecondition; InvalidArgument when one fits nowhere.
        """
        if not mounts:
            return NONE
        if self._stub is None:
            problem = "the agent knows no auth; set `auth` in [peers] of its settings"
            raise FailedPrecondition("SECRETS_UNAVAILABLE", problem=problem)
        request = ResolveSecretsRequest(workload=workload, workload_uid=workload_uid, generation=generation)
        return place(mounts, await self._resolve(request))

    async def fetch_for(self, order: SliceOrder) -> Fetched:
        """Those of a slice; see `fetch`."""
        return await self.fetch(
            mounts_of(order.program),
            workload=order.gang.workload,
            workload_uid=order.key.workload_uid,
            generation=order.key.generation,
        )

    @contextmanager
    def lay_out(self, fetched: Fetched, name: str, uid: int | None = None) -> Iterator[Given]:
        """Puts files in place for as long as the block runs. FailedPrecondition where no folder lies in memory."""
        if not fetched.files:
            yield Given(environment=fetched.environment, mask=fetched.mask)
            return
        with self._files.lay_out(name, fetched.files, uid) as folder:
            environment = {**fetched.environment, FOLDER: str(folder)}
            yield Given(environment=environment, folder=folder, mask=fetched.mask)

    async def _resolve(self, request: ResolveSecretsRequest) -> ResolveSecretsResponse:
        deadline = self._clock.monotonic() + _PATIENCE_S
        backoff_s = _BACKOFF_S[0]
        while True:
            try:
                answer: ResolveSecretsResponse = await self._stub.ResolveSecrets(
                    request, timeout=_TIMEOUT_S, wait_for_ready=True
                )
                return answer
            except _TRANSIENT:
                if self._clock.monotonic() > deadline:
                    raise
            await self._clock.sleep(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311  # jitter
            backoff_s = min(backoff_s * 2, _BACKOFF_S[1])


def no_secrets() -> Secrets:
    """What stands for them in an agent that knows no auth: programs that name secrets are refused."""
    return Secrets(None, SecretFiles(None), SystemClock())


def mounts_of(program: Program) -> Sequence[SecretMount]:
    """The secrets that a program names."""
    return [*program.torch.secrets, *program.process.secrets]


def place(mounts: Sequence[SecretMount], answer: ResolveSecretsResponse) -> Fetched:
    """Which value goes where; pure. InvalidArgument, which tells no value, when one cannot go there."""
    values = {(each.secret, each.wanted_version): each.value for each in answer.secrets}
    environment: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for mount in mounts:
        value = values.get((mount.secret, mount.version))
        if value is None:
            raise FailedPrecondition("SECRETS_UNAVAILABLE", problem=f"auth gave no value of {mount.secret}")
        if mount.HasField("file"):
            files[mount.file] = value
        else:
            environment[mount.env] = _text(mount, value)
    checked(environment)
    return Fetched(environment=environment, files=files, mask=Mask(values.values()))


def _text(mount: SecretMount, value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        problem = f"{mount.secret} is no text, so no variable can hold it; give it as a file"
        raise InvalidArgument("INVALID_FIELD", fields={f"secrets.{mount.env}": problem}) from None
    return text
