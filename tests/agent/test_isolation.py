"""As whom and within which limits jobs run: users by project, limits, cgroups, memory."""

import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lepton.errors import FailedPrecondition
from services.agent import confinement
from services.agent.confinement import Confinement, beside, command
from services.agent.isolation import Isolation, IsolationSettings, Share, Users
from services.agent.memory_limit import MemoryExceeded, hold, used_bytes
from tests.harness.wait import until

UNIFIED = Path("/sys/fs/cgroup/unified") if Path("/sys/fs/cgroup/unified").is_dir() else Path("/sys/fs/cgroup")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="other users are root's to give")


def test_each_project_has_a_user_of_its_own_that_it_keeps(tmp_path: Path) -> None:
    users = Users(tmp_path / "users.json", 200_000, 3)
    assert [users.of(project) for project in ("a", "b", "a", "c")] == [200_000, 200_001, 200_000, 200_002]
    assert Users(tmp_path / "users.json", 200_000, 3).of("b") == 200_001
    with pytest.raises(FailedPrecondition, match="isolation.uids"):
        users.of("d")
    assert Users(tmp_path / "users.json", 300_000, 3).of("b") == 300_000  # another range


def run(confinement: Confinement, code: str, **settings: object) -> subprocess.CompletedProcess[str]:
    argv = command(confinement, (sys.executable, "-I", "-c", code))
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, **settings)  # type: ignore[call-overload, no-any-return]


LOOK = """
import json, os, resource
print(json.dumps({"ids": os.getresuid() + os.getresgid(), "groups": os.getgroups(), "umask": os.umask(0),
    "files": sorted(map(int, os.listdir("/proc/self/fd"))), "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "new": open("/proc/self/status").read().split("NoNewPrivs:")[1][:2]}))
"""


def test_a_process_is_held_to_its_limits_and_has_no_files_but_the_first_three() -> None:
    with Path(os.devnull).open() as extra:
        os.set_inheritable(extra.fileno(), True)
        said = run(Confinement(limits={"core": 0, "files": 100}), LOOK, close_fds=False)
    seen = json.loads(said.stdout)
    assert (seen["core"], seen["nofile"], seen["umask"]) == ([0, 0], [100, 100], 0o077)
    assert seen["files"] in ([0, 1, 2], [0, 1, 2, 3])  # the fourth is the folder that it looks at
    assert seen["new"].strip() == "1"


def test_a_file_larger_than_allowed_cannot_be_written(tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'large')!r}, 'wb').write(bytes(1 << 20))"
    assert run(Confinement(limits={"file_bytes": 4096}), code).returncode != 0
    assert (tmp_path / "large").stat().st_size <= 4096
    assert run(Confinement(), code).returncode == 0  # the negative control


def test_limits_are_never_above_what_the_agent_itself_has() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        pytest.skip("the agent has no limit here")
    seen = json.loads(run(Confinement(limits={"files": hard + 1000}), LOOK).stdout)
    assert seen["nofile"] == [hard, hard]


def test_beside_is_everything_but_the_hidden_folders(tmp_path: Path) -> None:
    for name in ("a/secret/x", "a/open", "b/deep/secret", "b/deep/open", "c"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "c" / "up").symlink_to("..")
    hidden = [str(tmp_path / "a" / "secret"), str(tmp_path / "b" / "deep" / "secret"), str(tmp_path / "missing")]
    seen = sorted(beside(hidden, str(tmp_path)))
    assert seen == [str(tmp_path / name) for name in ("a/open", "b/deep/open", "c")]
    assert "/etc" in set(beside([str(tmp_path)]))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may pass through, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="lepton-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@needs_root
def test_another_user_has_nothing_of_roots(open_folder: Path) -> None:
    secret = open_folder / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None or subprocess.run(["/usr/bin/env", "test", "-x", python], check=False).returncode:
        pytest.skip("no interpreter that other users may run")
    argv = command(Confinement(uid=200_000), (python, "-I", "-c", LOOK))
    seen = json.loads(subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout)
    assert seen["ids"] == [200_000] * 6
    assert seen["groups"] == []
    tried = subprocess.run(command(Confinement(uid=200_000), ("cat", str(secret))), capture_output=True, check=False)
    assert tried.returncode != 0
    control = subprocess.run(command(Confinement(), ("cat", str(secret))), capture_output=True, check=False)
    assert control.returncode == 0


@needs_root
def test_a_process_that_conceals_itself_cannot_be_looked_into_by_others_of_its_user(open_folder: Path) -> None:
    (open_folder / "confinement.py").write_text(Path(confinement.__file__).read_text())
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None:
        pytest.skip("no interpreter that other users may run")
    program = f"""
import os, subprocess, sys
sys.path.insert(0, {str(open_folder)!r})
import confinement
for conceal in (lambda: None, confinement.conceal):
    conceal()
    look = "import os; open(f'/proc/{{os.getppid()}}/environ').read(); print('seen')"
    print(subprocess.run([sys.executable, "-c", look], capture_output=True, text=True).stdout.strip() or "refused")
"""
    argv = command(Confinement(uid=200_000), (python, "-I", "-c", program))
    said = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True, cwd=open_folder)
    assert said.stdout.split() == ["seen", "refused"]


def test_users_without_root_are_refused_when_the_agent_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(FailedPrecondition, match="first_uid"):
        Isolation(IsolationSettings(first_uid=200_000), tmp_path).prepare()
    with pytest.raises(FailedPrecondition, match="cgroup"):
        Isolation(IsolationSettings(cgroup=str(tmp_path / "none")), tmp_path).prepare()
    Isolation(IsolationSettings(), tmp_path).prepare()


async def test_a_slice_gets_a_cgroup_with_its_share(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    root.mkdir()
    (root / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    settings = IsolationSettings(cgroup=str(root), processes=99, cpu_burst=2.0)
    isolation = Isolation(settings, tmp_path)
    isolation.prepare()
    assert (root / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert not isolation.watches_memory
    held_limits = {}
    async with isolation.slice("u.1.0", "acme", Share(memory_bytes=1 << 30, cpu_milli=1500)) as held:
        folder = root / "u.1.0"
        assert held.cgroup == str(folder)
        for each in folder.iterdir():
            held_limits[each.name] = each.read_text()
            each.unlink()  # in a real one they go with the folder
    assert held_limits == {
        "pids.max": "99", "memory.max": str(1 << 30), "memory.oom.group": "1", "cpu.weight": "150",
        "cpu.max": "300000 100000",
    }  # fmt: skip
    (root / "cgroup.controllers").write_text("memory\n")
    with pytest.raises(FailedPrecondition, match="no controller cpu, pids"):
        isolation.prepare()


@needs_root
async def test_what_is_left_in_a_real_cgroup_is_killed(tmp_path: Path) -> None:
    root = UNIFIED / f"lepton-test-{os.getpid()}"
    try:
        root.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup 2 to write to: {error}")
    try:
        isolation = Isolation(IsolationSettings(cgroup=str(root)), tmp_path)
        isolation._cgroup = root
        folder = root / "slice"
        folder.mkdir()
        if not (folder / "cgroup.kill").exists():
            folder.rmdir()
            pytest.skip("this kernel cannot kill a cgroup")
        from services.agent import isolation as module

        daemon = (
            "import os; os.fork() or os.setsid() or os.execlp('sleep', 'sleep', '600'); print(flush=True); os.wait()"
        )
        argv = command(Confinement(cgroup=str(folder)), (sys.executable, "-I", "-c", daemon))
        process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        await process.stdout.readline()
        await until(lambda: len((folder / "cgroup.procs").read_text().split()) == 2)
        module._kill(folder)
        await module._remove(folder)
        assert await process.wait() == -9
        assert not folder.exists()
    finally:
        root.rmdir()


async def test_memory_of_a_process_and_its_children_is_counted_and_held_to() -> None:
    both = "held = bytearray(48 << 20); os.fork() or bytearray(64 << 20)"
    code = f"import os, time; {both}; print(flush=True); time.sleep(600)"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-c", code), stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    told: asyncio.Future[MemoryExceeded] = asyncio.get_running_loop().create_future()
    try:
        await process.stdout.readline()
        assert used_bytes([process.pid]) >= 48 << 20
        holding = asyncio.create_task(hold(process.pid, 80 << 20, told.set_result))
        calm = asyncio.create_task(hold(process.pid, 1 << 40, lambda _: pytest.fail("nothing is exceeded")))
        exceeded = await asyncio.wait_for(told, 30)
        assert exceeded.used_bytes > exceeded.most_bytes == 80 << 20
        assert "Cannot allocate memory" in str(exceeded)
        for task in (holding, calm):
            task.cancel()
        await asyncio.gather(holding, calm, return_exceptions=True)
    finally:
        os.killpg(process.pid, 9)
        await process.wait()
    assert used_bytes([process.pid]) == 0  # gone is no error
