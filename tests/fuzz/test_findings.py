"""What the fuzzing has found, one by one."""

import base64
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from bench.echo import Echo, EchoMessage, EchoStub, add_echo_to_server
from chassis.credentials import signing_request
from chassis.middleware.validation import Validation
from lepton import errors
from lepton.artifacts.location import Location
from lepton.auth.v1.audit_service_pb2 import QueryAuditRequest
from lepton.errors import InvalidArgument, NotFound
from lepton.models.formats import check_pt2
from lepton.scheduler.v1 import planning_service_pb2 as planning
from lepton.train.checkpoints import manifest as checkpoints
from lepton.trainer.v1.trainer_service_pb2 import CreateJobRequest
from services.auth.ca import SigningRequest
from services.trainer.worker.spec import TrainingSpec
from tests.fuzz.campaign import Campaign
from tests.fuzz.parsers import CHECKPOINT, DIGEST
from tests.fuzz.world import service
from tests.harness.mesh import serving


def refused(message: Any) -> dict[str, str]:
    with pytest.raises(InvalidArgument) as caught:
        Validation().check_of(message.DESCRIPTOR)(message)
    assert caught.value.reason == "INVALID_FIELD"
    return dict(caught.value.fields)


@pytest.mark.parametrize(
    "time",
    [Timestamp(seconds=2**63 - 1), Timestamp(seconds=-(2**63)), Timestamp(nanos=-1), Timestamp(nanos=1_000_000_000)],
)
def test_a_time_that_is_none_is_refused_by_name(time: Timestamp) -> None:
    """QueryAudit and GetUtilization were INTERNAL: protobuf raises ValueError where it is made a datetime."""
    request = QueryAuditRequest()
    field = next(
        each for each in request.DESCRIPTOR.fields if each.message_type and each.message_type.name == "Timestamp"
    )
    getattr(request, field.name).CopyFrom(time)
    assert "is no time" in refused(request)[field.name]


@pytest.mark.parametrize(
    "duration", [Duration(seconds=2**62), Duration(seconds=1, nanos=-1), Duration(nanos=2**31 - 1)]
)
def test_a_duration_that_is_none_is_refused_by_name(duration: Duration) -> None:
    """CreateJob was INTERNAL: OverflowError in the failure policy, three messages deep."""
    request = CreateJobRequest()
    request.job.failure_policy.rules.add()
    request.job.failure_policy.rules.add().backoff.CopyFrom(duration)
    assert "is no duration" in refused(request)["job.failure_policy.rules[1].backoff"]


def test_times_at_the_ends_are_taken() -> None:
    """The control."""
    request = QueryAuditRequest()
    for field in request.DESCRIPTOR.fields:
        if field.message_type and field.message_type.name == "Timestamp":
            getattr(request, field.name).CopyFrom(Timestamp(seconds=253_402_300_799, nanos=999_999_999))
    Validation().check_of(request.DESCRIPTOR)(request)


async def test_capacity_in_units_too_small_to_count_is_planned(tmp_path: Path) -> None:
    """PlanScaling was INTERNAL: a quotient of floats that is infinite is no whole number."""
    async with service("scheduler", tmp_path) as running:
        method = next(each for each in running.unary if each.name == "PlanScaling")
        request = planning.PlanScalingRequest.FromString(bytes.fromhex("19a0c8eb85f3cce17f2959f3f8c21f6ea501"))
        campaign = Campaign(running, 0)
        await campaign.send(method, request.SerializeToString(), (("authorization", f"Bearer {running.root}"),))
        assert campaign.report.text().startswith("1 inputs, {'OK': 1}") or not campaign.report.findings


def test_a_location_that_is_no_url_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="is no URL"):
        Location.parse("file://[zz]/a")


def test_a_checkpoint_of_infinite_size_is_refused() -> None:
    spoiled = {**CHECKPOINT, "files": [{"name": "a", "digest": DIGEST, "size": float("inf")}]}
    with pytest.raises(InvalidArgument):
        checkpoints.Manifest.parse(json.dumps(spoiled).encode())


@pytest.mark.parametrize("field", ["recipe", "optimizer", "schedule", "precision", "initial_model"])
@pytest.mark.parametrize("value", [{}, [], 5, None])
def test_a_training_spec_with_something_else_for_a_text_is_refused(field: str, value: Any) -> None:
    document = {"project": "p", "dataset": DIGEST, field: value}
    with pytest.raises(InvalidArgument):
        TrainingSpec.parse(json.dumps(document))


@pytest.mark.parametrize("damage", ["checksum", "length"])
def test_an_archive_whose_program_is_damaged_is_refused(damage: str) -> None:
    """What zipfile raises came out of the second reading of the archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in (("m/archive_format", b"pt2"), ("m/models/model.json", b'{"a": 1}')):
            archive.writestr(name, content)
    data = bytearray(buffer.getvalue())
    if damage == "checksum":
        data[data.index(b'{"a": 1}') + 2] ^= 1
    else:
        at = data.rindex(b"PK\1\2")
        data[at + 20 : at + 28] = (4000).to_bytes(4, "little") * 2
    with pytest.raises(InvalidArgument):
        check_pt2(io.BytesIO(bytes(data)), "m.pt2")


def test_an_archive_with_half_an_extra_field_is_refused() -> None:
    """zipfile raises IndexError."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("m/archive_format", b"pt2")
    data = bytearray(buffer.getvalue())
    at = data.rindex(b"PK\1\2")
    for where in (at + 20, at + 24):  # sizes that stand in the extra field, says the directory
        data[where : where + 4] = b"\xff" * 4
    data[at + 30 : at + 32] = (4).to_bytes(2, "little")
    data[at + 46 + 16 : at + 46 + 16] = b"\1\0\0\0"
    end = data.rindex(b"PK\5\6")
    data[end + 12 : end + 16] = (int.from_bytes(data[end + 12 : end + 16], "little") + 4).to_bytes(4, "little")
    with pytest.raises(InvalidArgument):
        check_pt2(io.BytesIO(bytes(data)), "m.pt2")


def test_a_signing_request_of_no_version_is_refused() -> None:
    """IssueCertificate, which anyone may call, was INTERNAL: x509.InvalidVersion is no ValueError."""
    pem = signing_request(("localhost",))[1]
    lines = pem.decode().splitlines()
    der = bytearray(base64.b64decode("".join(lines[1:-1])))
    der[der.index(b"\x02\x01\x00") + 2] = 4
    spoiled = "\n".join((lines[0], base64.b64encode(der).decode(), lines[-1], ""))
    with pytest.raises(InvalidArgument, match="signing request") as caught:
        SigningRequest.parse(spoiled)
    assert caught.value.reason == "CSR_INVALID"


class Wordy(Echo):
    def __init__(self, error: errors.LeptonError) -> None:
        self._error = error

    async def Echo(self, request: Any, context: Any) -> Any:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        NotFound("JOB_NOT_FOUND", "😀" * 2000, job="projects/acme/jobs/x"),
        NotFound("JOB_NOT_FOUND", "\n" * 5000, job="projects/acme/jobs/x"),
        NotFound("JOB_NOT_FOUND", job="😀" * 3000, **{f"fact{at}": "x" * 500 for at in range(40)}),
        InvalidArgument("INVALID_FIELD", fields={f"field{at}": "é" * 500 for at in range(20)}),
    ],
)
async def test_an_error_however_long_reaches_the_caller(error: errors.LeptonError) -> None:
    """Beyond 8 KiB of trailers the caller saw RESOURCE_EXHAUSTED of its own gRPC; no ASCII is sent as three bytes."""
    async with serving((add_echo_to_server, Wordy(error))) as mesh, mesh.client() as channel:
        with pytest.raises(type(error)) as caught:
            await EchoStub(channel).Echo(EchoMessage(name="projects/acme", text="x"))
        assert caught.value.reason == error.reason
        assert caught.value.domain == "trainer.lepton"
