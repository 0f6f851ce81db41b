"""Scripts of users as jobs: real ranks of a real agent run them as torchrun would, with their code and data."""

import ctypes
import json
import os
import re
import textwrap
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from lepton import bundle
from lepton.artifacts import ArtifactStore
from lepton.internal.v1 import run_report_pb2
from lepton.scheduler.v1 import program_pb2, workload_pb2
from tests.harness.agents import ROOT, SECRET, AgentWorld, agent_world
from tests.harness.wait import until

Slice = workload_pb2.Slice
N1 = "pools/general/nodes/n1"
EXAMPLES = ROOT / "examples"

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AgentWorld]:
    async with agent_world(tmp_path_factory.mktemp("scripts")) as world:
        await world.start("n1")
        await world.scheduler.joined(N1)
        yield world


def has_landlock() -> bool:
    return ctypes.CDLL(None).syscall(444, None, 0, 1) > 1  # asks for the version of the interface


class Jobs:
    """Runs folders as jobs and says what their ranks printed."""

    def __init__(self, world: AgentWorld, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.store = ArtifactStore(world.artifacts)

    def upload(self, content: bundle.Bundle) -> str:
        archive = self.folder / "archive"
        content.write(archive)
        return self.store.put_bytes("acme", archive.read_bytes())

    async def run(
        self, name: str, code: Path | Mapping[str, str], entry: str = "train.py", *, ranks: int = 1, **settings: Any
    ) -> list[list[str]]:
        """Runs it to success; the lines of each rank."""
        said = await self.end(name, code, entry, ranks=ranks, **settings)
        lines = [self.world.trainer.lines(f"projects/acme/jobs/{name}", rank) for rank in range(ranks)]
        assert [each.state for each in said] == [Slice.SUCCEEDED] * ranks, (said[0].message, lines)
        return lines

    async def end(
        self, name: str, code: Path | Mapping[str, str], entry: str = "train.py", *, ranks: int = 1, **settings: Any
    ) -> list[Slice]:
        """Runs it to its end; how its slices ended."""
        self.start(name, code, entry, ranks=ranks, **settings)
        workload = f"projects/acme/workloads/{name}"
        ends = (Slice.SUCCEEDED, Slice.FAILED)
        return [await self.world.scheduler.reported(workload, rank, *ends, deadline_s=90) for rank in range(ranks)]

    def start(
        self, name: str, code: Path | Mapping[str, str], entry: str = "train.py", *, ranks: int = 1, **settings: Any
    ) -> None:
        if not isinstance(code, Path):
            place = self.folder / name
            for file, text in code.items():
                (place / file).parent.mkdir(parents=True, exist_ok=True)
                (place / file).write_text(textwrap.dedent(text))
            code = place
        answer = settings.pop("answer", {})
        kind = "entry_point" if entry.endswith(".py") else "module"
        made = run_report_pb2.RunCode(digest=self.upload(bundle.of_code(code)), **{kind: entry}, **settings)
        job = f"projects/acme/jobs/{name}"
        self.world.trainer.runs[job] = run_report_pb2.StartRunResponse(spec_json="{}", code=made, **answer)
        program = program_pb2.Program(torch=program_pb2.TorchProgram(module="never.run", job=job))
        self.world.scheduler.start(f"projects/acme/workloads/{name}", {N1: range(ranks)}, program)


@pytest.fixture
def jobs(world: AgentWorld, tmp_path: Path) -> Jobs:
    return Jobs(world, tmp_path)


async def test_the_plain_example_runs_unchanged_with_loaders_that_fork(jobs: Jobs) -> None:
    argv = ["--epochs", "4", "--loaders", "1", "--lr", "0.02"]
    first, second = await jobs.run("plain", EXAMPLES / "plain_ddp", ranks=2, argv=argv)
    losses = [float(line.split()[-1]) for line in first if line.startswith("epoch")]
    assert len(losses) == 4
    assert losses[-1] < 0.5 * losses[0]
    assert not any(line.startswith("epoch") for line in second)


async def test_the_example_with_the_worker_api_reports_and_keeps_what_it_learned(jobs: Jobs) -> None:
    await jobs.run("api", EXAMPLES / "lepton_train", ranks=2, argv=["--epochs", "3"])
    events = jobs.world.trainer.events["projects/acme/jobs/api", 1, 0]
    steps = [event.measurement.step for event in events if event.HasField("measurement")]
    assert steps == list(range(1, 25))
    said = [event for event in events if event.WhichOneof("event") not in ("measurement", "pace")]
    assert [event.checkpoint.step for event in events if event.HasField("checkpoint")][-1:] == [24], said


MODULE = {
    "project/__init__.py": "NAME = 'the project'",
    "project/train.py": """
        import os, sys
        from . import NAME
        from .deep import beside
        if __name__ == "__main__":
            print(NAME, beside.WORD, sys.argv[1:], __package__, os.path.basename(os.getcwd()))
    """,
    "project/deep/__init__.py": "",
    "project/deep/beside.py": "WORD = 'beside'",
    "services/__init__.py": "WHOSE = 'the user\\'s own'",
    "shadow.py": "import services; print(services.WHOSE)",
}


async def test_a_module_runs_as_with_python_m_and_finds_its_relatives(jobs: Jobs) -> None:
    lines = await jobs.run("module", MODULE, "project.train", argv=["--x", "1"])
    assert lines == [["the project beside ['--x', '1'] project bundle"]]


async def test_a_package_of_the_users_goes_before_one_of_ours_with_its_name(jobs: Jobs) -> None:
    assert await jobs.run("shadow", MODULE, "shadow") == [["the user's own"]]


SPAWN = """
    import multiprocessing, os
    import beside

    class Own:
        number = 7

    def work(own, queue):
        queue.put((own.number, beside.WORD, os.environ["RANK"]))

    if __name__ == "__main__":
        for method in ("spawn", "fork", "forkserver"):
            context = multiprocessing.get_context(method)
            queue = context.Queue()
            child = context.Process(target=work, args=(Own(), queue))
            child.start()
            print(method, *queue.get(timeout=60))
            child.join()
        with multiprocessing.Manager() as manager:  # its socket lies in TMPDIR: a long path would break it
            print(manager.list([1, 2]))
"""


async def test_every_way_to_start_processes_works_from_a_rank(jobs: Jobs) -> None:
    code = {"train.py": SPAWN, "beside.py": "WORD = 'beside'"}
    lines = await jobs.run("spawn", code)
    assert lines == [["spawn 7 beside 0", "fork 7 beside 0", "forkserver 7 beside 0", "[1, 2]"]]


async def test_a_working_directory_below_the_root_is_where_it_runs_and_may_be_written(jobs: Jobs) -> None:
    script = "import os; open('made', 'w').write('x'); print(os.path.relpath(os.getcwd(), '..'), os.listdir('.'))"
    code = {"train.py": script, "conf/a.yaml": "a: 1"}
    await jobs.run("cwd", code, working_directory="conf")
    again = await jobs.run("cwd-again", code, working_directory="conf")
    assert sorted(re.findall(r"'(\S+)'", again[0][0])) == ["a.yaml", "made"]  # a fresh copy, not the one written to


READ = """
    import os
    place = os.environ["LEPTON_DATA"]
    if os.path.isdir(place):
        for folder, _, files in sorted(os.walk(place)):
            for name in sorted(files):
                path = os.path.join(folder, name)
                print(os.path.relpath(path, place), open(path).read(), oct(os.stat(path).st_mode & 0o777))
    else:
        print(os.path.basename(place), open(place).read())
"""


async def test_data_lies_where_lepton_data_says_read_only_and_is_fetched_once(jobs: Jobs, tmp_path: Path) -> None:
    images = tmp_path / "images"
    for name in ("a/1.txt", "b/2.txt"):
        (images / name).parent.mkdir(parents=True)
        (images / name).write_text(name.upper())
    digest = jobs.upload(bundle.of_data(images))
    expected = ["a/1.txt A/1.TXT 0o444", "b/2.txt B/2.TXT 0o444"]
    assert await jobs.run("folder", {"train.py": READ}, ranks=2, data=digest) == [expected, expected]
    kept = jobs.world.agents["n1"].state / "cache" / "data" / f"acme-{digest.removeprefix('sha256:')}"
    before = (kept / "a" / "1.txt").stat().st_ino
    assert await jobs.run("folder-again", {"train.py": READ}, data=digest) == [expected]
    assert (kept / "a" / "1.txt").stat().st_ino == before
    single = jobs.upload(bundle.of_data(images / "a" / "1.txt"))
    assert await jobs.run("file", {"train.py": READ}, data=single) == [["1.txt A/1.TXT"]]
    raw = jobs.store.put_bytes("acme", b"whatever it is")
    assert await jobs.run("raw", {"train.py": READ}, data=raw) == [["data whatever it is"]]


async def test_what_the_trainer_says_of_a_run_reaches_the_rank(jobs: Jobs) -> None:
    answer = {
        "resume_manifest": "sha256:new",
        "older_manifests": ["sha256:b", "sha256:a"],
        "parallelism_json": '{"data": "FSDP"}',
        "hang_timeout_s": 90.0,
        "preflight": True,
    }
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    lines = await jobs.run("told", {"train.py": script}, answer=answer)
    told = json.loads(lines[0][0])
    assert told["LEPTON_PARALLELISM"] == '{"data": "FSDP"}'
    assert (told["LEPTON_RESUME"], told["LEPTON_RESUME_OLDER"]) == ("sha256:new", "sha256:b,sha256:a")
    assert (told["LEPTON_HANG_TIMEOUT_S"], told["LEPTON_PREFLIGHT"], told["LEPTON_DATA"]) == ("90", "1", "")


PRIVATE = """
    import json, os, resource, tempfile
    open("written", "w").close()
    files = {number: os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")
             if os.path.exists(f"/proc/self/fd/{number}")}
    print(json.dumps({
        "environ": dict(os.environ), "files": files, "home": os.path.expanduser("~"),
        "temporary": tempfile.gettempdir(),
        "mode": oct(os.stat("written").st_mode), "session": os.getsid(0) == os.getpid(),
        "core": resource.getrlimit(resource.RLIMIT_CORE), "status": open("/proc/self/status").read(),
    }))
"""


@pytest.mark.parametrize("requirements", ["", "requirements.txt"], ids=["forked", "cold"])
async def test_a_rank_has_its_own_home_and_files_and_nothing_of_the_agents(jobs: Jobs, requirements: str) -> None:
    name = f"private-{'cold' if requirements else 'forked'}"
    code = {"train.py": PRIVATE, "requirements.txt": "# nothing beside what the node has\n"}
    lines = await jobs.run(name, code, requirements=requirements)
    seen = json.loads(lines[0][-1])
    agent = jobs.world.agents["n1"]
    assert SECRET not in str(seen)
    assert sorted(seen["files"]) == ["0", "1", "2", "3"], str(seen["files"])
    assert all(re.match(r"/dev/null|pipe:|socket:", target) for target in seen["files"].values())
    assert seen["home"].startswith(str(agent.state / "work" / name))
    assert seen["home"] != os.environ["HOME"]
    assert seen["temporary"] != "/tmp"
    assert len(seen["temporary"]) < 60
    assert seen["environ"]["TMPDIR"] == seen["temporary"]
    assert (seen["mode"], seen["session"], seen["core"]) == ("0o100600", True, [0, 0])
    assert "NoNewPrivs:\t1" in seen["status"]
    shown = {name for name, value in seen["environ"].items() if str(agent.state) in value}
    assert shown <= {"HOME", "LEPTON_SPEC", "TORCHELASTIC_ERROR_FILE", "VIRTUAL_ENV", "PATH"}  # all of its own slice
    await until(lambda: not Path(seen["temporary"]).exists() and not Path(seen["home"]).exists())


SPY = """
    import glob, os, sys
    state, agent, own = sys.argv[1:]
    process = "/proc/" + agent
    for path in (*sorted(glob.glob(state + "/identity/*")), process + "/mem", own, __file__):
        try:
            with open(path, "rb") as file:
                file.read(1)
            print("read", os.path.basename(path))
        except OSError as error:
            print("refused", os.path.basename(path), type(error).__name__)
"""


@pytest.mark.skipif(
    not has_landlock(), reason="this kernel has no Landlock: without users of their own jobs see it all"
)
@pytest.mark.parametrize(
    "requirements", [pytest.param("", id="forked"), pytest.param("requirements.txt", id="cold", marks=pytest.mark.slow)]
)
async def test_a_rank_cannot_read_the_agents_keys_or_its_memory(jobs: Jobs, tmp_path: Path, requirements: str) -> None:
    agent = jobs.world.agents["n1"]
    keys = sorted(each.name for each in (agent.state / "identity").iterdir())
    assert keys  # the negative control: the same user can read them
    assert all(each.read_bytes() for each in (agent.state / "identity").iterdir())
    (tmp_path / "beside").write_text("x")
    (tmp_path / "link").symlink_to(agent.state)
    code = {"train.py": SPY, "requirements.txt": "# nothing beside what the node has\n"}
    argv = [str(agent.state), str(agent.process.pid), str(tmp_path / "beside")]
    name = f"spy-{'cold' if requirements else 'forked'}"
    (lines,) = await jobs.run(name, code, argv=argv, requirements=requirements)
    hidden = [*keys, "mem"]
    assert lines == [*(f"refused {each} PermissionError" for each in hidden), "read beside", "read train.py"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"entry": "missing.py"}, "code.entry_point"),
        ({"working_directory": "nowhere"}, "code.working_directory"),
        ({"requirements": "nothing.txt"}, "code.requirements"),
        ({"requirements": "bad.txt"}, "-r"),
        ({"requirements": "unknown.txt"}, "no-such-package-of-lepton"),
        ({"environment": {"LEPTON_PARALLELISM": "x"}}, "LEPTON_PARALLELISM"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
async def test_code_that_cannot_be_used_is_the_users_error_and_says_why(
    jobs: Jobs, settings: dict[str, Any], words: str, request: pytest.FixtureRequest
) -> None:
    name = f"refused-{abs(hash(str(settings))) % 10**8}"
    code = {"train.py": "print(1)", "bad.txt": "-r other.txt", "unknown.txt": "no-such-package-of-lepton==9"}
    (said,) = await jobs.end(name, code, **settings)
    assert said.state == Slice.FAILED
    assert words in said.message
    events = jobs.world.trainer.events[f"projects/acme/jobs/{name}", 1, 0]
    await jobs.world.trainer.until(lambda: events)
    assert getattr(events[0].failure, "class") == "USER_ERROR"
    assert events[0].failure.advice


async def test_data_that_is_not_there_is_said_to_be_the_data(jobs: Jobs) -> None:
    (said,) = await jobs.end("no-data", {"train.py": "print(1)"}, data="sha256:" + "0" * 64)
    events = jobs.world.trainer.events["projects/acme/jobs/no-data", 1, 0]
    await jobs.world.trainer.until(lambda: events)
    assert getattr(events[0].failure, "class") == "DATA"
    assert "ARTIFACT_NOT_FOUND" in said.message


async def test_a_rank_that_uses_more_memory_than_it_asked_for_is_ended_and_told_so(jobs: Jobs) -> None:
    script = "import time; held = bytearray(1500 << 20); time.sleep(600)"
    (said,) = await jobs.end("greedy", {"train.py": script}, answer={"memory_bytes": 1 << 30})
    assert said.exit_code == -9
    assert "Cannot allocate memory beyond the 1.00 GiB" in said.message
    assert said.failure.failure_class == "OOM_HOST"
