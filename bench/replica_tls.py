"""What mutual TLS between gateway and model server costs: `python -m bench.replica_tls --json -`.

Two gateways, each before a Triton of its own: one pair speaks plaintext, one mutual TLS, all else is the same. They
take turns in short rounds under the same load. Told is processor time (user and system) per call of Envoy and Triton;
processor time, because it means something on a machine that others use too.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import psutil

from bench import gateway_model, serving_load
from bench.serving_load import Call
from chassis.credentials import replica_host
from services.agent.replica_settings import ReplicaSettings
from services.inference.envoy import Route, Routes, Target
from tests.harness.mesh_ca import MeshCa
from tests.harness.serving import RunningGateway, gateway, replica

MODEL: Final = "bench.images"
_NODE: Final = "n1"
_PATH: Final = "/inference.GRPCInferenceService/ModelInfer"
_WAYS: Final = ("plaintext", "mutual TLS")
_PROGRAMS: Final = ("gateway", "triton")


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A gateway with its Triton."""

    front: RunningGateway
    processes: dict[str, list[psutil.Process]]

    def call(self, body: bytes) -> Call:
        """A call by whoever may."""
        token = self.front.authority.token("bench", lifetime_s=36_000)
        headers = (("content-type", "application/grpc"), ("te", "trailers"), ("authorization", f"Bearer {token}"))
        return Call(url=f"https://localhost:{self.front.port}{_PATH}", body=body, headers=headers)

    def cpu_s(self, program: str) -> float:
        """User and system time so far, with children."""
        return sum(sum(each.cpu_times()[:2]) for each in self.processes[program])


async def _way(exits: AsyncExitStack, folder: Path, *, is_tls: bool) -> Way:
    ca = MeshCa()
    agent, identity = ca.member(f"agent/{_NODE}"), ca.member("service/gateway")
    certificate = ca.serving(agent, _NODE, folder / "serving") if is_tls else None
    # Nobody looks after it meanwhile: on a busy machine it would be replaced.
    settings = ReplicaSettings(check_interval_s=600, memory_interval_s=600)
    models = [gateway_model.served(MODEL, "linear")]
    served = await exits.enter_async_context(replica(folder / "replica", models, settings, certificate))
    await served.ready(deadline_s=90)
    front = await exits.enter_async_context(
        gateway(folder / "envoy", concurrency=2, identity=identity if is_tls else None)
    )
    endpoint = replace(served.endpoint, name=replica_host(_NODE) if is_tls else "")
    await front.route(Routes(routes=(Route(model=MODEL, targets=(Target(revision=1, endpoints=(endpoint,)),)),)))
    pid = served.replica.pid
    assert pid is not None
    return Way(front=front, processes={"gateway": _family(front.process.pid), "triton": _family(pid)})


def _family(pid: int) -> list[psutil.Process]:
    """A process and what it has started; looked for once, for others' processes that end disturb the looking."""
    root = psutil.Process(pid)
    while True:
        with contextlib.suppress(psutil.NoSuchProcess):
            return [root, *root.children(recursive=True)]


def _turn(way: Way, body: bytes, concurrency: int, seconds: float) -> dict[str, float]:
    """Microseconds of each program per call, and the calls per second. Raises ValueError when a call failed."""
    before: dict[str, float] = {}
    spent: dict[str, float] = {}

    def mark() -> float:
        now = {program: way.cpu_s(program) for program in _PROGRAMS}
        spent.update({program: now[program] - before.get(program, 0.0) for program in _PROGRAMS})
        before.update(now)
        return 0.0

    cores = sorted(os.sched_getaffinity(0))
    load = serving_load.load(way.call(body), concurrency=concurrency, seconds=seconds, cores=cores, spent_s=mark)
    if load.failed or not load.data_bytes:
        raise ValueError(f"{load.failed} of {load.done} calls failed")
    return {"rate": load.rate, "p50_us": load.p50_us, **{each: 1e6 * spent[each] / load.done for each in _PROGRAMS}}


async def run(payload_kb: int, concurrency: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Both ways with one payload: medians, and the median of what TLS adds in each round."""
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in _WAYS}
    async with AsyncExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="lepton-bench-")))
        ways = {name: await _way(exits, folder / str(at), is_tls=bool(at)) for at, name in enumerate(_WAYS)}
        body = gateway_model.request(MODEL, payload_kb)
        for number in range(rounds):
            for name in _WAYS if number % 2 else reversed(_WAYS):
                turns[name].append(await asyncio.to_thread(_turn, ways[name], body, concurrency, seconds))
    told: dict[str, Any] = {
        name: {key: round(statistics.median(turn[key] for turn in turns[name]), 1) for key in turns[name][0]}
        for name in _WAYS
    }
    pairs = list(zip(turns["mutual TLS"], turns["plaintext"], strict=True))
    added = {each: round(statistics.median(tls[each] - plain[each] for tls, plain in pairs), 1) for each in _PROGRAMS}
    return {"payload_kb": payload_kb, "concurrency": concurrency, **told, "added_cpu_us_per_call": added}


def main() -> None:
    """Measures and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--payloads", default="1,100", help="KB of images in a request: 1 to 128")
    parser.add_argument("--concurrency", type=int, default=16, help="calls in flight")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each way in each round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", default="-", help="the file for the results; - = standard output")
    given = parser.parse_args()
    if problem := serving_load.missing():
        parser.error(problem)
    found = [
        asyncio.run(run(int(payload), given.concurrency, given.seconds, given.rounds))
        for payload in given.payloads.split(",")
    ]
    text = json.dumps({"benchmark": "replica_tls", "rows": found}, indent=1) + "\n"
    if given.json == "-":
        sys.stdout.write(text)
    else:
        Path(given.json).write_text(text)


if __name__ == "__main__":
    main()
