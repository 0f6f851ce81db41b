"""The sample of live requests: uniform, bounded, and only what means something by itself."""

from collections import Counter
from random import Random

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from services.inference.recorder import Recorder, Reservoir
from tests.harness.clock import ManualClock


def test_every_request_is_as_likely_to_be_kept() -> None:
    kept: Counter[bytes] = Counter()
    for seed in range(2000):
        reservoir = Reservoir(Random(seed), capacity=5)
        for number in range(20):
            reservoir.add(bytes([number]), at_s=0)
        kept.update(reservoir.since(0))
    assert sum(kept.values()) == 2000 * 5
    assert all(420 < kept[bytes([number])] < 580 for number in range(20)), kept


def test_it_is_bounded_in_bytes_too() -> None:
    reservoir = Reservoir(Random(1), capacity=100, capacity_bytes=1000)
    for number in range(500):
        reservoir.add(bytes(50 + number % 100), at_s=number)
        assert sum(map(len, reservoir.since(0))) <= 1000
    assert 5 <= len(reservoir.since(0)) <= 20


@pytest.mark.parametrize("most", [3, 100])
async def test_it_keeps_what_the_gateway_copies_and_answers_health(most: int) -> None:
    clock = ManualClock()
    async with Recorder(clock, Random(1)) as recorder:
        address = f"{recorder.endpoint.host}:{recorder.endpoint.port}"
        async with grpc.aio.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=5)).status == 1
            infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
            for number in range(10):
                await infer(service_pb2.ModelInferRequest(model_name="p.d", id=str(number)), timeout=5)
            in_sequence = service_pb2.ModelInferRequest(model_name="p.d", id="sequence")
            in_sequence.parameters["sequence_id"].int64_param = 7
            await infer(in_sequence, timeout=5)
            huge = service_pb2.ModelInferRequest(model_name="p.d", raw_input_contents=[bytes(2 << 20)])
            await infer(huge, timeout=5)
        found = [service_pb2.ModelInferRequest.FromString(each) for each in recorder.requests("p.d", most)]
        assert len(found) == min(most, 10)
        assert {each.id for each in found} <= set(map(str, range(10)))
        assert recorder.requests("p.other", 5) == []
        await clock.advance(1000)
        assert recorder.requests("p.d", 5) == [], "what is old is not sent again"
