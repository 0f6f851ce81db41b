"""The warm launcher with real processes: starting, output, exits, environment, and that nothing outlives its owner."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from lepton.errors import FailedPrecondition, InvalidArgument, Unavailable
from services.agent.confinement import Confinement
from services.agent.launcher import Exit, LauncherClient, RankHandle, RankLaunch
from services.agent.launcher.launch import launcher_environment, rank_environment
from tests.agent.test_heap import STEPS
from tests.harness.wait import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.integration]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def launcher() -> AsyncIterator[LauncherClient]:
    async with LauncherClient({**os.environ, "SECRET_OF_THE_AGENT": "canary"}) as opened:
        await opened.ready()
        yield opened


async def run(launcher: LauncherClient, folder: Path, program: str, **settings: object) -> tuple[Exit, str, str]:
    """Runs a script to its end: how it ended, what it wrote to stdout and stderr."""
    handle = await start(launcher, folder, program, **settings)
    stdout, stderr = await asyncio.gather(handle.stdout.read(), handle.stderr.read())
    handle.close()
    return await handle.exited, stdout.decode(), stderr.decode()


async def start(launcher: LauncherClient, folder: Path, program: str, **settings: object) -> RankHandle:
    path = folder / "program.py"
    path.write_text(textwrap.dedent(program))
    launch = {"rank_id": f"{folder.name}-{time.monotonic()}", "entry": str(path), "cwd": folder, **settings}
    return await launcher.start(RankLaunch(**launch))  # type: ignore[arg-type]


def threads(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())


def listening(port: int) -> list[str]:
    """The hexadecimal addresses that listen on the port."""
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines())
    return [line[1] for line in lines if line[3] == "0A" and line[1].endswith(f":{port:04X}")]


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


async def test_the_launcher_is_warm_and_has_one_thread_before_and_after_its_forks(
    launcher: LauncherClient, tmp_path: Path
) -> None:
    program = """
        import os, sys
        print('torch._dynamo' in sys.modules, 'grpc' in sys.modules, len(os.listdir('/proc/self/task')))
    """
    assert (await run(launcher, tmp_path, program))[1] == "True True 1\n"
    assert threads(launcher.pid) == 1


async def test_a_script_runs_like_any_program(launcher: LauncherClient, tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("NAME = 'neighbour'")
    program = """
        import atexit, os, sys, threading, neighbour
        atexit.register(print, "left")
        threading.Thread(target=lambda: print("thread")).start()
        print(__name__, sys.argv[1:], neighbour.NAME, os.getcwd(), os.getsid(0) == os.getpid())
        print("complaint", file=sys.stderr)
    """
    ended, stdout, stderr = await run(launcher, tmp_path, program, argv=("--epochs", "$(touch /tmp/x); 3"))
    first, *rest = stdout.splitlines()
    expected = f"__main__ ['--epochs', '$(touch /tmp/x); 3'] neighbour {tmp_path} True"
    assert {first, *rest} == {expected, "thread", "left"}
    assert rest[-1] == "left"
    assert (ended, stderr) == (Exit(code=0), "complaint\n")


async def test_a_module_runs_as_with_python_m(launcher: LauncherClient, tmp_path: Path) -> None:
    handle = await launcher.start(RankLaunch(rank_id="module", entry="this", cwd=tmp_path))
    assert b"Beautiful is better than ugly." in await handle.stdout.read()
    assert (await handle.exited).is_success


@pytest.mark.parametrize(
    ("program", "ended"),
    [
        ("import sys; sys.exit(75)", Exit(code=75)),
        ("import sys; sys.exit('a message')", Exit(code=1)),
        ("raise KeyboardInterrupt", Exit(code=1)),
        ("import os; os._exit(3)", Exit(code=3)),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", Exit(signal=signal.SIGSEGV)),
        ("import os; os.abort()", Exit(signal=signal.SIGABRT)),
    ],
)
async def test_every_way_to_end_is_reported(
    launcher: LauncherClient, tmp_path: Path, program: str, ended: Exit
) -> None:
    assert (await run(launcher, tmp_path, program))[0] == ended


async def test_an_exception_leaves_its_traceback_and_an_error_file(launcher: LauncherClient, tmp_path: Path) -> None:
    error_file = tmp_path / "error.json"
    program = "def train():\n    raise ValueError('no such column')\ntrain()"
    ended, _, stderr = await run(launcher, tmp_path, program, env={"TORCHELASTIC_ERROR_FILE": str(error_file)})
    assert ended == Exit(code=1)
    assert "in train" in stderr
    message = json.loads(error_file.read_text())["message"]
    assert message["message"] == "ValueError: no such column"
    assert "in train" in message["extraInfo"]["py_callstack"]
    assert int(message["extraInfo"]["timestamp"]) > 0


async def test_a_rank_sees_its_own_variables_and_none_of_the_agents_secrets(
    launcher: LauncherClient, tmp_path: Path
) -> None:
    program = "import json, os; print(json.dumps(dict(os.environ)))"
    _, stdout, _ = await run(launcher, tmp_path, program, env={"RANK": "3", "OMP_NUM_THREADS": "2"})
    seen = json.loads(stdout)
    assert set(seen) <= {"RANK", "OMP_NUM_THREADS", "LEPTON_REPORT_FD", *launcher_environment(os.environ)}
    assert (seen["RANK"], seen["OMP_NUM_THREADS"]) == ("3", "2")
    assert "canary" not in stdout
    threads = await run(
        launcher, tmp_path, "import torch; print(torch.get_num_threads())", env={"OMP_NUM_THREADS": "2"}
    )
    assert threads[1] == "2\n"


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PYTHONSTARTUP", "BASH_ENV", "A=B", "", "A\0B"])
async def test_variables_that_would_run_code_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        rank_environment({}, {name: "x"})


async def test_a_rank_holds_no_files_but_its_own(launcher: LauncherClient, tmp_path: Path) -> None:
    program = (
        "import os; print(sorted(int(f) for f in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{f}')))"
    )
    _, stdout, _ = await run(launcher, tmp_path, program)
    assert json.loads(stdout) == [0, 1, 2, 3]  # null, stdout, stderr, reports


async def test_what_the_launcher_drew_at_random_is_not_the_same_in_every_rank(
    launcher: LauncherClient, tmp_path: Path
) -> None:
    program = """
        import multiprocessing, numpy, random
        print(bytes(multiprocessing.current_process().authkey).hex(), numpy.random.rand(), random.random())
    """
    said = [(await run(launcher, tmp_path, program))[1].split() for _ in range(2)]
    assert all(first != second for first, second in zip(*said, strict=True))


@pytest.mark.skipif(os.geteuid() != 0, reason="other users are root's to give")
async def test_a_rank_of_another_user_has_its_rights_and_still_dies_with_its_launcher() -> None:
    with tempfile.TemporaryDirectory(prefix="lepton-test-") as name:
        folder = Path(name)
        os.chmod(folder, 0o755)  # noqa: PTH101
        (folder / "secret").touch(mode=0o600)
        program = """
            import os, sys, time
            print(os.getresuid() + os.getresgid(), os.getgroups(), sorted(os.listdir("/proc/self/fd"))[:4], flush=True)
            try:
                open("secret")
            except PermissionError:
                print("refused", flush=True)
            time.sleep(600)
        """
        async with LauncherClient(os.environ) as launcher:
            confinement = Confinement(uid=200_000, limits={"core": 0})
            handle = await start(launcher, folder, program, confinement=confinement)
            seen = await handle.stdout.readline()
            assert seen.decode() == f"{(200_000,) * 6} [] ['0', '1', '2', '3']\n"
            assert await handle.stdout.readline() == b"refused\n"
            os.kill(launcher.pid, signal.SIGKILL)
            await until(lambda: not is_alive(handle.pid))


async def test_a_rank_keeps_the_memory_that_a_step_frees(launcher: LauncherClient, tmp_path: Path) -> None:
    code, stdout, stderr = await run(launcher, tmp_path, STEPS)
    assert int(stdout) < 100, (code, stderr)


async def test_reports_and_answers_travel_both_ways(launcher: LauncherClient, tmp_path: Path) -> None:
    program = """
        from lepton import train
        train.report({"loss": 0.5}, step=1)
        while not train.should_stop():
            train.session().reporter.package("sha256:aa", metrics={}).wait(10)
        print("stopped")
    """
    handle = await start(launcher, tmp_path, program)
    kinds = []
    async for report in handle.reports():
        if report["kind"] != "pace":
            kinds.append(report["kind"])
        if report["kind"] == "package":
            await handle.stop(5.0)
            await handle.ack(report["id"])
    assert kinds[:2] == ["metrics", "package"]
    assert await handle.stdout.read() == b"stopped\n"
    assert await handle.exited == Exit(code=0)


async def test_a_kill_ends_the_rank_and_what_it_started(launcher: LauncherClient, tmp_path: Path) -> None:
    program = """
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(child.pid, flush=True)
        time.sleep(600)
    """
    handle = await start(launcher, tmp_path, program)
    grandchild = int(await handle.stdout.readline())
    handle.kill()
    assert await asyncio.wait_for(handle.exited, 5) == Exit(signal=signal.SIGKILL)
    await until(lambda: not is_alive(grandchild))
    handle.kill()  # too late is no error


async def test_what_a_finished_rank_left_behind_is_ended(launcher: LauncherClient, tmp_path: Path) -> None:
    program = """
        import subprocess, sys
        print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid)
    """
    handle = await start(launcher, tmp_path, program)
    grandchild = int(await handle.stdout.readline())
    assert await handle.exited == Exit(code=0)
    await until(lambda: not is_alive(grandchild))


async def test_an_id_cannot_run_twice_at_once_but_again(launcher: LauncherClient, tmp_path: Path) -> None:
    first = await start(launcher, tmp_path, "import time; time.sleep(600)", rank_id="twice")
    with pytest.raises(FailedPrecondition, match="RANK_ALREADY_RUNNING"):
        await start(launcher, tmp_path, "pass", rank_id="twice")
    first.kill()
    await first.exited
    assert (await run(launcher, tmp_path, "pass", rank_id="twice"))[0] == Exit(code=0)


async def test_a_start_that_fails_says_why_and_harms_nothing(launcher: LauncherClient, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="RANK_NOT_STARTED"):
        await launcher.store("192.0.2.1", store_id="nowhere")
    assert (await run(launcher, tmp_path, "pass"))[0] == Exit(code=0)


async def test_a_launch_too_large_to_send_is_refused_and_harms_nothing(
    launcher: LauncherClient, tmp_path: Path
) -> None:
    with pytest.raises(InvalidArgument, match="LAUNCH_TOO_LARGE"):
        await run(launcher, tmp_path, "pass", argv=("x" * (2 << 20),))
    assert (await run(launcher, tmp_path, "pass"))[0] == Exit(code=0)


async def test_a_store_listens_on_its_address_only_and_serves_ranks(launcher: LauncherClient, tmp_path: Path) -> None:
    store = await launcher.store("127.0.0.1")
    host, port = store.endpoint.split(":")
    assert listening(int(port)) == [f"0100007F:{int(port):04X}"]
    program = """
        import os, torch.distributed as dist
        dist.init_process_group("gloo")
        import torch
        total = torch.tensor([dist.get_rank() + 1])
        dist.all_reduce(total)
        print(int(total))
        dist.destroy_process_group()
    """
    place = {"MASTER_ADDR": host, "MASTER_PORT": port, "WORLD_SIZE": "3", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    ranks = [run(launcher, tmp_path, program, env={**place, "RANK": str(rank)}) for rank in range(3)]
    assert [(ended.code, stdout) for ended, stdout, _ in await asyncio.gather(*ranks)] == [(0, "6\n")] * 3
    store.kill()
    assert await store.exited == Exit(signal=signal.SIGKILL)


CLEAN = """
    import torch, torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    def main():
        dist.init_process_group("gloo")
        model = DistributedDataParallel(torch.nn.Linear(3, 1))
        for _ in range(20):
            model(torch.rand(4, 3)).sum().backward()
        dist.destroy_process_group()

    main()
"""


@pytest.mark.parametrize("turns", [10, pytest.param(100, marks=pytest.mark.slow)])
async def test_gangs_that_destroy_their_process_group_end_cleanly_every_time(
    launcher: LauncherClient, tmp_path: Path, turns: int
) -> None:
    """Without program.py's keeping of process groups, 9 of 60 such gangs hung at the end of main()."""
    for turn in range(turns):
        store = await launcher.store(store_id=f"clean-{turns}-{turn}")
        host, port = store.endpoint.split(":")
        place = {"MASTER_ADDR": host, "MASTER_PORT": port, "WORLD_SIZE": "2", "TORCHELASTIC_USE_AGENT_STORE": "True"}
        ranks = [run(launcher, tmp_path, CLEAN, env={**place, "RANK": str(rank)}) for rank in range(2)]
        async with asyncio.timeout(20):
            assert [(ended, stderr) for ended, _, stderr in await asyncio.gather(*ranks)] == [(Exit(code=0), "")] * 2
        store.kill()
        await store.exited


async def test_a_launcher_that_dies_takes_its_ranks_along_and_says_so(tmp_path: Path) -> None:
    async with LauncherClient(os.environ) as launcher:
        handle = await start(launcher, tmp_path, "import time; time.sleep(600)")
        store = await launcher.store()
        os.kill(launcher.pid, signal.SIGKILL)
        assert await asyncio.wait_for(handle.exited, 5) == Exit(signal=signal.SIGKILL)
        await asyncio.wait_for(launcher.lost, 5)
        await until(lambda: not is_alive(handle.pid) and not is_alive(store.pid))
        with pytest.raises(Unavailable, match="LAUNCHER_LOST"):
            await launcher.store(store_id="another")


OWNER = """
import asyncio, os, subprocess, sys
from pathlib import Path
from services.agent.launcher import LauncherClient, RankLaunch

async def main() -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    control = subprocess.Popen(sleep, start_new_session=True, stdout=subprocess.DEVNULL)
    async with LauncherClient(os.environ) as launcher:
        store = await launcher.store()
        ranks = [await launcher.start(RankLaunch(rank_id=str(n), entry=sys.argv[1])) for n in range(2)]
        print(control.pid, launcher.pid, store.pid, *(rank.pid for rank in ranks), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def owner_command(tmp_path: Path) -> list[str]:
    (tmp_path / "owner.py").write_text(OWNER)
    (tmp_path / "sleeper.py").write_text("import time; time.sleep(600)")
    return [sys.executable, str(tmp_path / "owner.py"), str(tmp_path / "sleeper.py")]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_no_launcher_store_or_rank_outlives_a_killed_owner(
    owner_command: list[str], number: signal.Signals
) -> None:
    root = Path(__file__).parents[2]
    environ = {**os.environ, "PYTHONPATH": f"{root}:{root / 'sdk'}"}
    owner = await asyncio.create_subprocess_exec(*owner_command, stdout=subprocess.PIPE, env=environ)
    assert owner.stdout is not None
    control, *pids = map(int, (await asyncio.wait_for(owner.stdout.readline(), 60)).split())
    try:
        assert len(pids) == 4
        assert all(map(is_alive, pids))
        owner.send_signal(number)
        await owner.communicate()
        await until(lambda: not any(map(is_alive, pids)), deadline_s=5)
        # The negative control: a child that does not ask to die with the owner is still there.
        assert is_alive(control)
    finally:
        os.kill(control, signal.SIGKILL)


async def test_a_launcher_that_is_not_warm_yet_is_not_waited_for() -> None:
    """It hears nothing while it imports; what it has not started needs no good end."""
    async with LauncherClient(os.environ) as opened:
        is_warm, pid = asyncio.ensure_future(opened.ready()), opened.pid
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGSTOP)  # however slow it is: it will not hear that the agent leaves
    assert not is_alive(pid)
    with pytest.raises(Unavailable):
        await is_warm
