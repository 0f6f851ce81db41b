"""The rank program under fire: killed, stopped, refused, misled; and resumed so that nothing is lost or done twice."""

import asyncio
import json
import os
import signal
import textwrap
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
import torch
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from safetensors.torch import load

from lepton.train import EXIT_STOPPED
from services.agent.launcher import Exit, LauncherClient
from tests.harness.gang import PROJECT, PlayedAgent, Workplace, make_workplace, start_gang

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.integration]

SHORT: dict[str, Any] = {"epochs": 4}  # 44 steps of 128 samples
KILL_AT_STEP = 22


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def launcher() -> AsyncIterator[LauncherClient]:
    async with LauncherClient(os.environ) as opened:
        await opened.ready()
        yield opened


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("work"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def uninterrupted(launcher: LauncherClient, place: Workplace) -> PlayedAgent:
    gang = await start_gang(launcher, world_size=4, folder=place.folder, env=place.env(place.spec(**SHORT)))
    assert await gang.finish() == [Exit(code=0)] * 4, gang.errors
    return gang


async def resume(launcher: LauncherClient, place: Workplace, checkpoint: str, world_size: int = 4) -> PlayedAgent:
    env = place.env(place.spec(**SHORT), resume=checkpoint)
    gang = await start_gang(launcher, world_size=world_size, folder=place.folder, env=env, generation=2)
    assert await gang.finish() == [Exit(code=0)] * world_size, gang.errors
    return gang


def end_all(gang: PlayedAgent) -> Callable[[object], None]:
    """What the agent does once one rank of a gang has ended."""

    def end(_: object) -> None:
        for handle in gang.handles:
            handle.kill()

    return end


def weights_digest(place: Workplace, gang: PlayedAgent) -> str:
    digest: str = place.read_json(gang.of_kind("package")[0]["digest"])["files"]["weights.safetensors"]
    return digest


def weights(place: Workplace, gang: PlayedAgent) -> dict[str, torch.Tensor]:
    return load(place.store.read(PROJECT, weights_digest(place, gang)))


def steps(gang: PlayedAgent) -> list[int]:
    return [report["step"] for report in gang.of_kind("metrics") if "loss" in report["values"]]


def losses(gang: PlayedAgent, after_step: int) -> dict[int, float]:
    metrics = gang.of_kind("metrics")
    return {
        one["step"]: one["values"]["loss"] for one in metrics if one["step"] > after_step and "loss" in one["values"]
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def killed(launcher: LauncherClient, place: Workplace) -> PlayedAgent:
    """A gang of which one rank was killed with SIGKILL right after the checkpoint of step 22."""

    def kill_one(gang: PlayedAgent, rank: int, report: Mapping[str, Any]) -> bool:
        if report["kind"] == "checkpoint" and report["step"] == KILL_AT_STEP:
            gang.handles[2].kill(signal.SIGKILL)
            gang.handles[2].exited.add_done_callback(end_all(gang))
        return False

    env = place.env(place.spec(**SHORT))
    gang = await start_gang(launcher, world_size=4, folder=place.folder, env=env, on_report=kill_one)
    assert (await gang.finish())[2] == Exit(signal=signal.SIGKILL)
    assert not gang.of_kind("package")
    return gang


def last_checkpoint(gang: PlayedAgent) -> str:
    manifest: str = gang.of_kind("checkpoint")[-1]["manifest"]
    return manifest


async def test_a_run_repeated_gives_the_same_weights_to_the_bit(
    launcher: LauncherClient, place: Workplace, uninterrupted: PlayedAgent
) -> None:
    again = await resume(launcher, place, "")
    assert weights_digest(place, again) == weights_digest(place, uninterrupted)


async def test_a_gang_killed_and_resumed_ends_with_the_weights_of_the_uninterrupted_run(
    launcher: LauncherClient, place: Workplace, uninterrupted: PlayedAgent, killed: PlayedAgent
) -> None:
    resumed = await resume(launcher, place, last_checkpoint(killed))
    assert steps(resumed)[0] > KILL_AT_STEP
    assert weights_digest(place, resumed) == weights_digest(place, uninterrupted)
    assert losses(resumed, after_step=30) == losses(uninterrupted, after_step=30)


async def test_a_gang_resumed_at_a_wrong_position_ends_with_other_weights(
    launcher: LauncherClient, place: Workplace, uninterrupted: PlayedAgent, killed: PlayedAgent
) -> None:
    """The negative control of the test above: the same state, but the sampler put back by an epoch."""
    manifest = place.read_json(last_checkpoint(killed))
    manifest |= {"samples": manifest["samples"] // 2, "step": manifest["step"] // 2, "epoch": manifest["epoch"] // 2}
    wrong = place.store.put_bytes(PROJECT, json.dumps(manifest).encode())
    resumed = await resume(launcher, place, wrong)
    assert weights_digest(place, resumed) != weights_digest(place, uninterrupted)


@pytest.mark.parametrize("world_size", [1, 3])
async def test_a_gang_resumed_with_fewer_ranks_goes_on_with_the_same_samples(
    launcher: LauncherClient, place: Workplace, uninterrupted: PlayedAgent, killed: PlayedAgent, world_size: int
) -> None:
    resumed = await resume(launcher, place, last_checkpoint(killed), world_size)
    expected = weights(place, uninterrupted)
    for name, tensor in weights(place, resumed).items():  # sums over other ranks round otherwise, and only that differs
        assert torch.allclose(tensor, expected[name], rtol=1e-2, atol=1e-3), name
    assert losses(resumed, after_step=30) == pytest.approx(losses(uninterrupted, after_step=30), rel=1e-2)


async def test_a_finished_run_resumed_only_packages_again(
    launcher: LauncherClient, place: Workplace, uninterrupted: PlayedAgent
) -> None:
    again = await resume(launcher, place, last_checkpoint(uninterrupted))
    assert steps(again) == []
    assert weights_digest(place, again) == weights_digest(place, uninterrupted)
    assert again.of_kind("package")[0]["metrics"] == uninterrupted.of_kind("package")[0]["metrics"]


async def test_a_gang_asked_to_stop_saves_leaves_and_goes_on_later(
    launcher: LauncherClient, place: Workplace, uninterrupted: PlayedAgent
) -> None:
    asked: list[asyncio.Task[None]] = []

    def ask(gang: PlayedAgent, rank: int, report: Mapping[str, Any]) -> bool:
        if report["kind"] == "metrics" and report["step"] == 10 and not asked:
            asked.append(asyncio.ensure_future(gang.handles[1].stop(20)))  # one rank is enough
        return False

    env = place.env(place.spec(**SHORT))
    gang = await start_gang(launcher, world_size=4, folder=place.folder, env=env, on_report=ask)
    assert await gang.finish() == [Exit(code=EXIT_STOPPED)] * 4, gang.errors
    saved = gang.of_kind("checkpoint")[-1]
    assert saved["step"] in (10, 20, 30)
    assert gang.of_kind("state")[-1]["phase"] == "stopped"
    assert not gang.of_kind("package")
    resumed = await resume(launcher, place, saved["manifest"])
    assert weights_digest(place, resumed) == weights_digest(place, uninterrupted)


async def test_checkpoints_every_few_steps_lie_within_epochs_and_resume_there(
    launcher: LauncherClient, place: Workplace
) -> None:
    spec = place.spec(epochs=2, checkpoint_every_steps=7)
    whole = await start_gang(launcher, world_size=2, folder=place.folder, env=place.env(spec))
    assert await whole.finish() == [Exit(code=0)] * 2, whole.errors
    saved = whole.of_kind("checkpoint")
    assert [report["step"] for report in saved] == [7, 14, 21, 22]
    env = place.env(spec, resume=saved[0]["manifest"])
    resumed = await start_gang(launcher, world_size=2, folder=place.folder, env=env)
    assert await resumed.finish() == [Exit(code=0)] * 2, resumed.errors
    assert weights_digest(place, resumed) == weights_digest(place, whole)


async def test_a_superseded_gang_ends_itself_when_its_commit_is_refused(
    launcher: LauncherClient, place: Workplace
) -> None:
    refusals: list[asyncio.Task[None]] = []

    def refuse(gang: PlayedAgent, rank: int, report: Mapping[str, Any]) -> bool:
        if "id" in report:
            refusals.append(asyncio.ensure_future(gang.handles[rank].nack(report["id"], "GENERATION_STALE")))
        return "id" in report

    env = place.env(place.spec(epochs=100))
    gang = await start_gang(launcher, world_size=2, folder=place.folder, env=env, on_report=refuse)
    assert [ended.code for ended in await gang.finish()] == [1, 1]
    assert "GENERATION_STALE" in gang.errors[0]
    assert not gang.of_kind("package")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"LEPTON_SPEC": "/nonexistent"}, "FileNotFoundError"),
        ({"LEPTON_SPEC": ""}, "RANK_ENVIRONMENT_INVALID"),
        ({"RANK": "zero"}, "RANK_ENVIRONMENT_INVALID"),
        ({"LEPTON_RESUME": "sha256:" + "0" * 64}, "NO_CHECKPOINT_WHOLE"),
        ({"LEPTON_ARTIFACTS": ""}, "ARTIFACTS_NOT_CONFIGURED"),
    ],
)
async def test_a_rank_that_cannot_work_says_why_and_fails(
    launcher: LauncherClient, place: Workplace, tmp_path: Path, settings: dict[str, str], reason: str
) -> None:
    env = {**place.env(place.spec()), **settings}
    gang = await start_gang(launcher, world_size=1, folder=tmp_path, env=env)
    assert await gang.finish() == [Exit(code=1)]
    assert reason in gang.errors[0]
    assert reason in json.loads((tmp_path / "error-0.json").read_text())["message"]["extraInfo"]["py_callstack"]


async def test_a_checkpoint_of_another_spec_is_not_resumed(
    launcher: LauncherClient, place: Workplace, uninterrupted: PlayedAgent
) -> None:
    env = place.env(place.spec(**SHORT, seed=9), resume=last_checkpoint(uninterrupted))
    gang = await start_gang(launcher, world_size=1, folder=place.folder, env=env)
    assert await gang.finish() == [Exit(code=1)]
    assert "CHECKPOINT_OF_ANOTHER_RUN" in gang.errors[0]


async def test_a_users_own_script_trains_with_the_worker_api_and_resumes(
    launcher: LauncherClient, place: Workplace
) -> None:
    script = place.folder / "mine.py"
    script.write_text(
        textwrap.dedent("""
        import sys, torch, torch.distributed as dist
        from torch.nn.parallel import DistributedDataParallel
        from lepton import train

        dist.init_process_group("gloo")
        torch.manual_seed(0)
        x = torch.rand(100, 3); y = x.sum(1, keepdim=True)
        model = DistributedDataParallel(torch.nn.Linear(3, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        saved = train.resume()
        if saved:
            model.module.load_state_dict(saved.state["model"])
        for batch in train.shard(x, batch_size=10, epochs=4, position=saved.position.samples if saved else 0):
            loss = (model(x[batch.indices]) - y[batch.indices]).square().mean()
            optimizer.zero_grad(); loss.backward(); optimizer.step()
            train.report({"loss": loss.item()}, step=batch.step, epoch=batch.epoch)
            if batch.ends_epoch:
                train.checkpoint({"model": model.module.state_dict()}, step=batch.step, samples=batch.consumed).wait()
            if sys.argv[1] == "half" and batch.consumed == 200:
                break
        print(train.rank(), train.world_size(), batch.step)
        dist.destroy_process_group()
        """)
    )
    base = {"LEPTON_ARTIFACTS": place.store.url}
    first = await start_gang(launcher, world_size=2, folder=place.folder, env=base, entry=str(script), argv=("half",))
    assert await first.finish() == [Exit(code=0)] * 2, first.errors
    env = {**base, "LEPTON_RESUME": last_checkpoint(first)}
    second = await start_gang(launcher, world_size=2, folder=place.folder, env=env, entry=str(script), argv=("all",))
    assert await second.finish() == [Exit(code=0)] * 2, second.errors
    assert second.output == {0: "0 2 40\n", 1: "1 2 40\n"}
    assert [report["step"] for report in second.of_kind("metrics")] == list(range(21, 41))


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """A real OTLP receiver that keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[tuple[dict[str, Any], Any]] = []

    async def Export(self, request: Any, context: Any) -> Any:
        for group in request.resource_spans:
            facts = {item.key: item.value.string_value or item.value.int_value for item in group.resource.attributes}
            self.spans += [(facts, span) for scope in group.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize("flags", ["01", "00"])
async def test_every_rank_continues_the_jobs_trace_when_it_is_sampled(
    launcher: LauncherClient, place: Workplace, flags: str
) -> None:
    collector, server = Collector(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    traced = {
        "TRACEPARENT": f"00-{TRACE}-{PARENT}-{flags}",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
    }
    env = {**place.env(place.spec(epochs=2)), **traced}
    gang = await start_gang(launcher, world_size=2, folder=place.folder, env=env)
    assert await gang.finish() == [Exit(code=0)] * 2, gang.errors
    await server.stop(0)
    if flags == "00":
        assert collector.spans == []
        return
    assert {span.trace_id.hex() for _, span in collector.spans} == {TRACE}
    roots = {facts["lepton.rank"]: span for facts, span in collector.spans if span.name == "rank.train"}
    assert {facts["service.name"] for facts, _ in collector.spans} == {"rank"}
    assert sorted(roots) == [0, 1]
    assert all(root.parent_span_id.hex() == PARENT for root in roots.values())
    for rank, root in roots.items():
        mine = [span for facts, span in collector.spans if facts["lepton.rank"] == rank]
        epochs = [span for span in mine if span.name == "rank.epoch"]
        assert [span.parent_span_id for span in epochs] == [root.span_id] * 2
        assert sum(span.name == "rank.checkpoint" for span in mine) == 2
        assert sum(span.name == "rank.package" for span in mine) == (1 if rank == 0 else 0)
