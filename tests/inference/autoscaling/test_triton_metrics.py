"""Triton's counters: what requests waited, and how much of the time replicas computed."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from services.inference.autoscaling.triton_metrics import Counters, ReplicaQueues, parse

PAGE = """# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="acme.digits",version="1"} 40
nv_inference_exec_count{model="acme.digits",version="1"} 10
nv_inference_queue_duration_us{model="acme.digits",version="1"} 80000
nv_inference_compute_input_duration_us{model="acme.digits",version="1"} 4000
nv_inference_compute_infer_duration_us{model="acme.digits",version="1"} 3990000
nv_inference_compute_output_duration_us{model="acme.digits",version="1"} 6000
nv_cpu_utilization 0.25
"""


def test_the_counters_are_read() -> None:
    assert parse(PAGE) == Counters(requests=40.0, executions=10.0, queue_s=0.08, compute_s=4.0)
    assert parse("") == Counters()


def test_delay_and_computing_time_are_those_since_the_last_look() -> None:
    queues = ReplicaQueues()
    assert queues.between({"a": Counters()}, 0.0).queue_delay_s is None, "nothing to compare with yet"
    seen = queues.between({"a": parse(PAGE)}, 2.0)
    assert seen.queue_delay_s == pytest.approx(0.002)
    assert seen.busy == pytest.approx(0.5), "batches of four: each request counts the time of its batch"
    rest = queues.between({"a": parse(PAGE)}, 4.0)
    assert (rest.queue_delay_s, rest.busy) == (0.0, 0.0)


def test_replicas_are_added_up_and_one_that_started_again_says_nothing_new() -> None:
    queues = ReplicaQueues()
    queues.between({"a": Counters(), "b": Counters()}, 0.0)
    both = queues.between({"a": parse(PAGE), "b": parse(PAGE)}, 2.0, instances=2)
    assert both.busy == pytest.approx(0.5)
    queues.forget_all_but(["a"])
    assert queues.between({"b": parse(PAGE)}, 4.0).busy is None


async def test_a_replica_that_does_not_answer_is_left_out() -> None:
    assert (await ReplicaQueues().look(["127.0.0.1:1"], 0.0)).queue_delay_s is None


@contextlib.asynccontextmanager
async def replica(answer: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Something that calls itself a replica; its address, and what it was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


async def test_a_replica_is_asked_and_cannot_send_the_asker_elsewhere() -> None:
    page = PAGE.encode()
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(page), page)
    async with replica(whole) as (address, asked):
        queues = ReplicaQueues()
        await queues.look([address], 0.0)
        assert (await queues.look([address], 1.0)).queue_delay_s == 0.0
        assert len(asked) == 2
        other = address.replace("127.0.0.1", "localhost").encode()
        away = b"HTTP/1.1 302 Found\r\nLocation: http://%s/metrics\r\nContent-Length: 0\r\n\r\n" % other
        async with replica(away) as (liar, _):
            assert (await ReplicaQueues().look([liar], 0.0)).queue_delay_s is None
        assert len(asked) == 2


@pytest.mark.parametrize("address", ["169.254.169.254:80", "0.0.0.0:80", "user@127.0.0.1:80", "no host"])
async def test_what_is_no_replicas_address_is_not_asked(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "open_connection", None)  # would fail differently
    assert (await ReplicaQueues().look([address], 0.0)).queue_delay_s is None
