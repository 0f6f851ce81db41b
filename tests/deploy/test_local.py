"""The supervisor of the one-machine stack, with small programs in the place of services."""

import asyncio
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import psutil

from deploy.local.component import Component
from deploy.local.ports import Ports
from deploy.local.supervisor import Plan, Supervisor, supervise
from tests.harness.wait import until


def program(tmp_path: Path, name: str, code: str = "import time; time.sleep(600)", *, ready: bool = True) -> Component:
    async def is_ready() -> bool:
        return ready

    return Component(
        name=name, argv=(sys.executable, "-c", code), log=tmp_path / f"{name}.log", is_ready=is_ready, stop_s=2.0
    )


def state(tmp_path: Path) -> dict[str, object]:
    try:
        said: dict[str, object] = json.loads((tmp_path / "stack.json").read_text())
    except FileNotFoundError:
        return {}
    return said


def pid(tmp_path: Path, name: str) -> int:
    components = state(tmp_path)["components"]
    assert isinstance(components, dict)
    found: int = components[name]["pid"]
    return found


async def running(tmp_path: Path, plan: Plan) -> tuple[Supervisor, "asyncio.Task[bool]"]:
    supervisor = Supervisor(plan, tmp_path / "stack.json")
    task = asyncio.create_task(supervisor.run())
    await until(lambda: state(tmp_path).get("phase") == "ready" or task.done(), 20)
    return supervisor, task


async def test_a_process_that_dies_is_started_again_and_all_end_with_the_stack(tmp_path: Path) -> None:
    supervisor, task = await running(tmp_path, [program(tmp_path, "one"), program(tmp_path, "two")])
    first = pid(tmp_path, "one")
    psutil.Process(first).kill()
    await until(lambda: pid(tmp_path, "one") != first, 10)
    again, other = pid(tmp_path, "one"), pid(tmp_path, "two")
    supervisor.request_stop()
    assert await task
    assert not psutil.pid_exists(again)
    assert not psutil.pid_exists(other)
    assert not (tmp_path / "stack.json").exists()


async def test_a_process_that_cannot_start_fails_the_stack_and_shows_its_log(tmp_path: Path) -> None:
    broken = program(tmp_path, "broken", "print('no such setting'); raise SystemExit(3)", ready=False)
    _, task = await running(tmp_path, [program(tmp_path, "fine"), broken])
    assert await task is False
    message = str(state(tmp_path)["message"])
    assert "broken ended with code 3" in message
    assert "no such setting" in message
    assert not psutil.pid_exists(pid(tmp_path, "fine"))


async def test_grandchildren_end_too(tmp_path: Path) -> None:
    child = "import time; time.sleep(600)"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True)"
    supervisor, task = await running(tmp_path, [program(tmp_path, "parent", f"{code}; time.sleep(600)")])
    parent = psutil.Process(pid(tmp_path, "parent"))
    await until(lambda: parent.children(), 10)
    (grandchild,) = parent.children()
    parent.kill()
    supervisor.request_stop()
    await task
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


async def test_an_orphan_that_ends_is_collected_while_the_stack_runs(tmp_path: Path) -> None:
    leaves = "import os; os.fork() and os._exit(0); os.close(0); open(os.environ['PIPE']).read()"
    os.mkfifo(pipe := tmp_path / "pipe")
    code = f"import os, sys, time, subprocess; subprocess.run([sys.executable, '-c', {leaves!r}]); time.sleep(600)"
    parent = replace(program(tmp_path, "parent", code), environment={"PIPE": str(pipe)})
    supervisor, task = await running(tmp_path, [parent])
    await until(lambda: orphans(pid(tmp_path, "parent")), 20)
    (orphan,) = orphans(pid(tmp_path, "parent"))
    pipe.write_text("end")
    await until(lambda: not psutil.pid_exists(orphan.pid), 10)
    supervisor.request_stop()
    assert await task


def orphans(group: int) -> list[psutil.Process]:
    """The children of this process that belong to another's group."""
    return [each for each in psutil.Process().children() if each.pid != group and os.getpgid(each.pid) == group]


async def test_the_stack_ends_when_its_holder_goes_away_without_letting_go(tmp_path: Path) -> None:
    theirs, ours = os.pipe()
    supervisor = Supervisor([program(tmp_path, "one")], tmp_path / "stack.json")
    task = asyncio.create_task(supervise(supervisor, theirs))
    await until(lambda: state(tmp_path).get("phase") == "ready", 20)
    os.close(ours)
    assert await asyncio.wait_for(task, 20)


async def test_the_stack_stays_when_its_holder_lets_go(tmp_path: Path) -> None:
    theirs, ours = os.pipe()
    supervisor = Supervisor([program(tmp_path, "one")], tmp_path / "stack.json")
    task = asyncio.create_task(supervise(supervisor, theirs))
    await until(lambda: state(tmp_path).get("phase") == "ready", 20)
    os.write(ours, b"r")
    os.close(ours)
    await until(lambda: _is_closed(theirs), 5)
    assert not task.done()
    supervisor.request_stop()
    assert await task


def test_ports_are_kept_while_they_are_free(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    first = Ports.choose(file, ["a", "b"])
    again = Ports.choose(file, ["a", "b", "c"])
    assert (again["a"], again["b"]) == (first["a"], first["b"])
    assert again["c"] not in {first["a"], first["b"]}


def _is_closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False
