"""Process programs on a real agent: run, fail with their last words, stop, are adopted, and never see a shell."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from lepton.internal.v1 import node_session_pb2
from lepton.scheduler.v1 import program_pb2, workload_pb2
from tests.harness.agents import SECRET, AgentWorld, agent_world
from tests.harness.wait import until

Slice = workload_pb2.Slice
N1 = "pools/general/nodes/n1"

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AgentWorld]:
    async with agent_world(tmp_path_factory.mktemp("processes")) as world:
        await world.start("n1")
        await world.scheduler.joined(N1)
        yield world


def process(*argv: str, **environment: str) -> program_pb2.Program:
    return program_pb2.Program(process=program_pb2.ProcessProgram(argv=argv, environment=environment))


def python(code: str, **environment: str) -> program_pb2.Program:
    return process(sys.executable, "-c", code, **environment)


def sleepers(world: AgentWorld) -> set[int]:
    return {each.pid for each in world.agents["n1"].descendants() if each.name() == "sleep"}


async def test_a_command_that_ends_well_has_succeeded(world: AgentWorld) -> None:
    workload = "projects/acme/workloads/true"
    world.scheduler.start(workload, {N1: (0,)}, process("true"))
    said = await world.scheduler.reported(workload, 0, Slice.SUCCEEDED, Slice.FAILED)
    assert said.state == Slice.SUCCEEDED


async def test_a_command_that_fails_says_why_in_its_last_words(world: AgentWorld) -> None:
    workload = "projects/acme/workloads/false"
    world.scheduler.start(workload, {N1: (0,)}, python("import sys; print('so far'); sys.exit('no such column')"))
    said = await world.scheduler.reported(workload, 0, Slice.FAILED)
    assert (said.exit_code, said.message) == (1, "no such column (exit code 1)")


async def test_a_command_that_does_not_exist_fails_with_its_name(world: AgentWorld) -> None:
    workload = "projects/acme/workloads/missing"
    world.scheduler.start(workload, {N1: (0,)}, process("no-such-command"))
    said = await world.scheduler.reported(workload, 0, Slice.FAILED)
    assert "cannot run no-such-command" in said.message


async def test_the_digests_that_a_process_reports_are_the_outputs_of_its_slice(world: AgentWorld) -> None:
    workload, digest = "projects/acme/workloads/output", "sha256:" + "a" * 64
    line = f'{{"seq": 1, "kind": "output", "name": "model.onnx", "digest": "{digest}"}}\\n'
    code = f"import os; os.write(int(os.environ['LEPTON_REPORT_FD']), b'''{line}''')"
    world.scheduler.start(workload, {N1: (0,)}, python(code))
    said = await world.scheduler.reported(workload, 0, Slice.SUCCEEDED)
    assert dict(said.outputs) == {"model.onnx": digest}


async def test_arguments_and_values_that_a_shell_would_run_are_plain_text(world: AgentWorld, tmp_path: Path) -> None:
    workload, mark = "projects/acme/workloads/injected", tmp_path / "ran"
    evil = f"; touch {mark} $(touch {mark}) `touch {mark}` | touch {mark}\ntouch {mark}"
    code = f"import os, sys; assert sys.argv[1] == os.environ['EVIL'] == {evil!r}; "
    code += f"assert {SECRET!r} not in str(os.environ)"
    world.scheduler.start(workload, {N1: (0,)}, process(sys.executable, "-c", code, evil, EVIL=evil))
    said = await world.scheduler.reported(workload, 0, Slice.SUCCEEDED, Slice.FAILED)
    assert said.state == Slice.SUCCEEDED, said.message
    assert not mark.exists()


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PYTHONSTARTUP", "HOME", "LEPTON_ARTIFACTS", "lower"])
async def test_a_variable_that_would_change_what_runs_is_refused(world: AgentWorld, name: str) -> None:
    workload = f"projects/acme/workloads/refused-{name.lower().replace('_', '-')}"
    world.scheduler.start(workload, {N1: (0,)}, process("true", **{name: "/tmp/evil.so"}))
    said = await world.scheduler.reported(workload, 0, Slice.FAILED)
    assert name in said.message


async def test_a_process_that_ignores_the_notice_is_killed_when_its_grace_is_over(world: AgentWorld) -> None:
    workload = "projects/acme/workloads/stubborn"
    code = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: print('no')); print('deaf')"
    line = '{"seq": 1, "kind": "output", "name": "deaf", "digest": "sha256:' + "b" * 64 + '"}\\n'
    code += f"; import os; os.write(int(os.environ['LEPTON_REPORT_FD']), b'{line}'); time.sleep(600)"
    world.scheduler.start(workload, {N1: (0,)}, python(code))
    reports = world.scheduler.reports[workload, 1, 0]
    await world.scheduler.until(lambda: reports and reports[-1].outputs)
    world.scheduler.stop(N1, workload, grace_s=0.5, reason="cancelled")
    said = await world.scheduler.reported(workload, 0, Slice.STOPPED)
    assert (said.exit_code, said.message) == (-9, "cancelled")


async def test_a_slice_that_a_newer_generation_wants_unchanged_goes_on_running(world: AgentWorld) -> None:
    workload, program = "projects/acme/workloads/server", process("sleep", "600")
    world.scheduler.start(workload, {N1: (0, 1)}, program, generation=1)
    for index in (0, 1):
        await world.scheduler.reported(workload, index, Slice.RUNNING)
    await until(lambda: len(sleepers(world)) == 2)  # a process runs as soon as its warden does
    before = sleepers(world)
    world.scheduler.start(workload, {N1: (0, 1, 2)}, program, generation=2)
    world.scheduler.stop(N1, workload, generation=1)
    for index in (0, 1, 2):
        await world.scheduler.reported(workload, index, Slice.RUNNING, generation=2)
    await until(lambda: len(sleepers(world)) == 3)
    assert before < sleepers(world)
    world.scheduler.start(workload, {N1: (0,)}, process("sleep", "601"), generation=3)
    world.scheduler.stop(N1, workload, generation=2)
    await world.scheduler.reported(workload, 0, Slice.RUNNING, generation=3)
    for index in (0, 1, 2):
        await world.scheduler.reported(workload, index, Slice.STOPPED, generation=2)
    world.scheduler.stop(N1, workload, generation=3)
    await world.scheduler.reported(workload, 0, Slice.STOPPED, generation=3)


async def test_an_ended_slice_that_is_ordered_again_only_says_once_more_how_it_ended(world: AgentWorld) -> None:
    workload = "projects/acme/workloads/once"
    world.scheduler.start(workload, {N1: (0,)}, process("true"))
    await world.scheduler.reported(workload, 0, Slice.SUCCEEDED)
    said = world.scheduler.reports[workload, 1, 0]
    count = len(said)
    world.scheduler.start(workload, {N1: (0,)}, process("true"))
    await world.scheduler.until(lambda: len(said) > count)
    assert {each.state for each in said[count:]} == {Slice.SUCCEEDED}


async def test_stopping_a_slice_that_was_never_started_settles_it_and_a_stale_stop_says_nothing(
    world: AgentWorld,
) -> None:
    world.scheduler.send(
        N1,
        node_session_pb2.OpenSessionResponse(
            stop=node_session_pb2.StopSlices(workload="projects/acme/workloads/never", generation=4, slices=[7])
        ),
    )
    await world.scheduler.reported("projects/acme/workloads/never", 7, Slice.STOPPED, generation=4)
    workload = "projects/acme/workloads/stale"
    world.scheduler.start(workload, {N1: (0,)}, process("sleep", "600"))
    await world.scheduler.reported(workload, 0, Slice.RUNNING)
    world.scheduler.stop(N1, workload, reason="stale")
    other = "projects/acme/workloads/after"
    world.scheduler.start(other, {N1: (0,)}, process("true"))
    await world.scheduler.reported(other, 0, Slice.SUCCEEDED)
    assert world.scheduler.reports[workload, 1, 0][-1].state == Slice.RUNNING
    await until(lambda: not sleepers(world))


async def test_a_node_without_triton_refuses_to_serve(world: AgentWorld) -> None:
    workload = "projects/acme/workloads/serving"
    model = program_pb2.ServedModel(name="m", repository="sha256:" + "0" * 64, golden="sha256:" + "0" * 64)
    program = program_pb2.Program(triton=program_pb2.TritonProgram(models=[model]))
    world.scheduler.start(workload, {N1: (0,)}, program)
    said = await world.scheduler.reported(workload, 0, Slice.FAILED)
    assert "TRITON_NOT_CONFIGURED" in said.message
