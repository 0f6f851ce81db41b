"""A scripted auth, as agents see it: the real delivery protocol, with a test that says what the values are."""

from typing import Any

from chassis.call import current_call
from lepton.errors import LeptonError
from lepton.internal.v1 import secrets_pb2 as pb
from lepton.internal.v1.secrets_pb2_grpc import SecretDeliveryServiceServicer


class ScriptedDelivery(SecretDeliveryServiceServicer):
    """Answers every agent alike, and remembers who asked."""

    def __init__(self) -> None:
        self.values: dict[str, list[bytes]] = {}  # by secret, the oldest version first
        self.refusal: LeptonError | None = None
        self.asked: list[tuple[str, str, int]] = []  # peer, workload, generation

    async def ResolveSecrets(self, request: pb.ResolveSecretsRequest, context: Any) -> pb.ResolveSecretsResponse:
        call = current_call()
        self.asked.append((call.peer if call is not None else "", request.workload, request.generation))
        if self.refusal is not None:
            raise self.refusal
        answer = pb.ResolveSecretsResponse()
        for secret, values in self.values.items():
            for wanted in range(len(values) + 1):
                version = wanted or len(values)
                answer.secrets.add(secret=secret, wanted_version=wanted, version=version, value=values[version - 1])
        return answer
