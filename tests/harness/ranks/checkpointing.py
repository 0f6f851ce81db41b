"""What ranks do in the tests of checkpoints: functions that tests.harness.saving sends to them by name."""

import json
import resource
import socket
import threading
from concurrent import futures
from pathlib import Path
from typing import Any

import torch

import lepton
from lepton.artifacts import ArtifactStore
from lepton.errors import LeptonError
from lepton.train.checkpoints import Position, Saver, gang_store
from lepton.train.checkpoints.forked import why
from lepton.train.environment import RankEnvironment
from lepton.train.reporter import Reporter
from tests.harness.saving import tell


def saver(url: str, rank: int, world_size: int, reporter: Reporter | None = None, **settings: Any) -> Saver:
    """A rank's saver, as its session makes it."""
    place = RankEnvironment.parse({"RANK": str(rank), "WORLD_SIZE": str(world_size)})
    return Saver(
        ArtifactStore(url), "acme", rank=rank, world_size=world_size, reporter=reporter or Reporter(None),
        connect=lambda: gang_store(place), **settings,
    )  # fmt: skip


def save_for_ever(rank: int, world_size: int, url: str) -> None:
    """Takes checkpoint after checkpoint, whose every element is its step; tells the digest of each that counts."""
    own, weights, step = saver(url, rank, world_size), torch.zeros(400_000), 0
    while True:
        step += 1
        weights.fill_(float(step))
        commit = own.save(
            {"model": {"w": weights}}, position=Position(step=step, epoch=0, samples=0), metrics={}, config_digest=""
        )
        weights.fill_(-1.0)
        try:
            commit.wait()
        except LeptonError as error:
            tell(("failed", step, why(error)))
        else:
            tell(("written", step, commit.digest))


def write_in_place(rank: int, world_size: int, path: str) -> None:
    """Writes a checkpoint over the one before it, as many programs do, and tells when it is half done."""
    weights = torch.full((400_000,), 2.0).numpy().tobytes()
    with Path(path).open("wb") as file:
        file.write(weights[: len(weights) // 2])
        file.flush()
        tell("half")
        threading.Event().wait()


def run_out_of_space(rank: int, world_size: int, url: str) -> list[Any]:
    """Takes three checkpoints, the second with room for no file of its size; what came of each, and of the reports."""
    ours, theirs = socket.socketpair()
    reporter = Reporter(ours)
    lines: list[dict[str, Any]] = []

    def agent() -> None:
        with theirs.makefile("rb") as reports:
            for line in reports:
                lines.append(json.loads(line))
                if "id" in lines[-1]:
                    theirs.sendall(json.dumps({"ack": lines[-1]["id"]}).encode() + b"\n")

    threading.Thread(target=agent, daemon=True).start()
    own, came = saver(url, rank, world_size, reporter if rank == 0 else None), []
    for step, limit in ((1, resource.RLIM_INFINITY), (2, 100_000), (3, resource.RLIM_INFINITY)):
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit if rank == world_size - 1 else resource.RLIM_INFINITY, hard))
        state = {f"w{rank}": torch.full((100_000,), float(step))}
        commit = own.save(state, position=Position(step=step, epoch=0, samples=0), metrics={}, config_digest="")
        try:
            commit.wait()
        except LeptonError as error:
            came.append(why(error))
        else:
            came.append(commit.digest)
    reporter.check()  # a checkpoint that could not be written is no reason to end
    reporter.drain()
    return [came, lines]


def save_beside_grpc(rank: int, world_size: int, url: str, times: int) -> int:
    """Forks again and again while threads of gRPC call and answer; how many calls were answered meanwhile."""
    import grpc

    assert lepton.FORKS_ARE_QUIET
    handler = grpc.method_handlers_generic_handler(
        "t.Echo", {"Say": grpc.unary_unary_rpc_method_handler(lambda request, context: request)}
    )
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=(handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    answered, is_over = [0], threading.Event()

    def call() -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            say = channel.unary_unary("/t.Echo/Say")
            while not is_over.is_set():
                assert say(b"x" * 1000, timeout=60) == b"x" * 1000
                answered[0] += 1

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    own = saver(url, rank, world_size)
    for step in range(times):
        commit = own.save(
            {"w": torch.full((1000,), float(step))},
            position=Position(step=step, epoch=0, samples=0), metrics={}, config_digest="",
        )  # fmt: skip
        commit.wait()
    before = answered[0]
    while answered[0] == before:
        pass
    is_over.set()
    for caller in callers:
        caller.join()
    server.stop(None)
    return answered[0]
