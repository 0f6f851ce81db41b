"""That the fuzzing can find something: servers that are wrong in one way each, and the judge of their answers."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from bench.echo import SERVICE, Echo, add_echo_to_server
from chassis.adapter import Registrar
from chassis.rpc_metrics import RpcMetrics
from chassis.stack import stack
from lepton.errors import DETAILS_KEY, InvalidArgument, LeptonError, NotFound, ResourceExhausted
from tests.fuzz.campaign import Campaign, Report
from tests.fuzz.judge import judged
from tests.fuzz.messages import smaller
from tests.fuzz.world import UNLIMITED, Service
from tests.harness.mesh import serving

pytestmark = pytest.mark.exhaustive


async def campaign(servicer: Echo, *, spoil: Callable[[Any], None] = lambda _: None) -> Report:
    async with serving() as mesh:
        registrar = Registrar(stack(mesh.access, RpcMetrics(), limits=UNLIMITED), "trainer.lepton")
        add_echo_to_server(servicer, registrar)
        spoil(registrar)
        service = Service(
            name="trainer",
            methods={method.path: method for method in registrar.methods},
            handlers=registrar.handlers,
            root=mesh.signer.token("users/root"),
            alice=mesh.signer.token("users/alice"),
        )
        return await Campaign(service, 1).run(250)


class Crashing(Echo):
    async def Echo(self, request: Any, context: Any) -> Any:
        return {"a": 1}[request.text]


class Telling(Echo):
    async def Echo(self, request: Any, context: Any) -> Any:
        raise InvalidArgument("INVALID_FIELD", fields={"text": "Traceback (most recent call last): x.py, line 5"})


class Wordy(Echo):
    async def Echo(self, request: Any, context: Any) -> Any:
        await context.abort(
            grpc.StatusCode.NOT_FOUND, "😀" * 1000, _details(NotFound("JOB_NOT_FOUND", job="projects/acme/jobs/x"))
        )


def _details(error: LeptonError) -> tuple[tuple[str, bytes], ...]:
    return ((DETAILS_KEY, error.to_status("trainer.lepton").SerializeToString()),)


class Leaking(Echo):
    async def Echo(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNKNOWN, "something")


@pytest.mark.parametrize(
    ("servicer", "problem"),
    [
        (Crashing(), "the status is INTERNAL"),
        (Telling(), "tells 'Traceback'"),
        (Wordy(), "bytes: the client sees none of this"),
        (Leaking(), "the status is UNKNOWN"),
    ],
)
async def test_a_servicer_that_is_wrong_is_caught(servicer: Echo, problem: str) -> None:
    report = await campaign(servicer)
    assert any(problem in finding.problem for finding in report.findings), report.text()
    assert {finding.path for finding in report.findings} == {f"/{SERVICE}/Echo"}


async def test_one_that_is_right_is_not() -> None:
    assert (await campaign(Echo())).findings == []


async def test_a_server_that_decodes_without_care_is_caught() -> None:
    """What gRPC would make UNKNOWN of, with the decoder's own words."""
    from bench.echo import EchoMessage

    def spoil(registrar: Registrar) -> None:
        path = f"/{SERVICE}/Echo"
        registrar.handlers[path] = registrar.handlers[path]._replace(request_deserializer=EchoMessage.FromString)

    report = await campaign(Echo(), spoil=spoil)
    assert any("DecodeError got out" in finding.problem for finding in report.findings)


def test_an_answer_without_details_is_found() -> None:
    assert judged(grpc.StatusCode.NOT_FOUND, "x", ()) == "NOT_FOUND carries no details"


def test_a_rate_limit_without_a_time_is_found() -> None:
    error = ResourceExhausted("RATE_LIMITED", caller="x")
    packed = error.to_status("x.lepton").SerializeToString()
    found = judged(error.code, error.message, (("grpc-status-details-bin", packed),))
    assert (found == "a rate limit without RetryInfo") is (error.retry_after_s is None)


async def test_a_finding_is_made_small() -> None:
    from bench.echo import EchoMessage

    large = EchoMessage(name="projects/acme", text="x", count=5, children=[EchoMessage(text="y")])
    assert smaller(large, lambda message: message.count == 5) == EchoMessage(count=5)
