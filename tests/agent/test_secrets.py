"""Secrets on a real agent: found where the program was told, by it alone, and by nobody who reads what it says."""

import base64
import hashlib
import json
import secrets
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from lepton import bundle
from lepton.artifacts import ArtifactStore
from lepton.errors import FailedPrecondition
from lepton.internal.v1 import run_report_pb2
from lepton.internal.v1.secrets_pb2_grpc import add_SecretDeliveryServiceServicer_to_server
from lepton.scheduler.v1 import program_pb2, workload_pb2
from tests.harness.agents import AgentWorld, Peer, agent_world
from tests.harness.ports import free_ports
from tests.harness.secret_delivery import ScriptedDelivery
from tests.harness.wait import until

Slice = workload_pb2.Slice
N1 = "pools/general/nodes/n1"
PREFIX = "canary-of-secrets-"
TOKEN = "projects/acme/secrets/token"
KEY = "projects/acme/secrets/key"

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


class World:
    """An agent with a scripted auth."""

    def __init__(self, agents: AgentWorld, delivery: ScriptedDelivery) -> None:
        self.agents, self.delivery = agents, delivery
        self.token = PREFIX + secrets.token_hex(16)
        self.key = f"-----BEGIN KEY-----\n{PREFIX}{secrets.token_hex(20)}\n{PREFIX}{secrets.token_hex(8)}\n"
        delivery.values = {TOKEN: [b"of-before", self.token.encode()], KEY: [self.key.encode()]}

    async def process(self, name: str, code: str, *mounts: program_pb2.SecretMount, **facts: Any) -> Slice:
        program = program_pb2.ProcessProgram(argv=[sys.executable, "-c", textwrap.dedent(code)], secrets=mounts)
        workload = f"projects/acme/workloads/{name}"
        self.agents.scheduler.start(workload, {N1: (0,)}, program_pb2.Program(process=program), **facts)
        ends = (Slice.SUCCEEDED, Slice.FAILED)
        generation = facts.get("generation", 1)
        return await self.agents.scheduler.reported(workload, 0, *ends, deadline_s=60, generation=generation)

    async def job(
        self,
        name: str,
        code: str,
        *mounts: program_pb2.SecretMount,
        ranks: int = 1,
        requirements: str = "",
        **code_facts: Any,
    ) -> list[Slice]:
        """A user's script as a job of torch ranks; how they ended."""
        place = self.agents.folder / f"{name}.code"
        place.mkdir()
        (place / "train.py").write_text(textwrap.dedent(code))
        (place / "requirements.txt").write_text("# nothing beside what the node has\n")
        archive = place.with_suffix(".tar")
        bundle.of_code(place).write(archive)
        digest = ArtifactStore(self.agents.artifacts).put_bytes("acme", archive.read_bytes())
        made = run_report_pb2.RunCode(digest=digest, entry_point="train.py", requirements=requirements, **code_facts)
        job = f"projects/acme/jobs/{name}"
        self.agents.trainer.runs[job] = run_report_pb2.StartRunResponse(spec_json="{}", code=made)
        torch = program_pb2.TorchProgram(module="never.run", job=job, secrets=mounts)
        workload = f"projects/acme/workloads/{name}"
        self.agents.scheduler.start(workload, {N1: range(ranks)}, program_pb2.Program(torch=torch))
        ends = (Slice.SUCCEEDED, Slice.FAILED)
        return [await self.agents.scheduler.reported(workload, rank, *ends, deadline_s=90) for rank in range(ranks)]

    def lines(self, name: str, rank: int = 0) -> list[str]:
        return self.agents.trainer.lines(f"projects/acme/jobs/{name}", rank)

    def said(self) -> str:
        """All that the agent has told anybody, and its log."""
        reports = [str(each) for each in self.agents.scheduler.reports.values()]
        return "\n".join([*reports, str(dict(self.agents.trainer.events)), self.agents.log("n1")])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with agent_world(tmp_path_factory.mktemp("secrets")) as agents:
        delivery = ScriptedDelivery()
        (port,) = free_ports(1)
        auth = Peer("auth", agents.authority, port, (add_SecretDeliveryServiceServicer_to_server, delivery))
        await auth.up()
        peers = {
            "scheduler": f"127.0.0.1:{agents.scheduler_peer.port}",
            "trainer": f"127.0.0.1:{agents.trainer_peer.port}",
            "auth": f"127.0.0.1:{port}",
        }
        await agents.start("n1", peers=peers)
        await agents.scheduler.joined(N1)
        yield World(agents, delivery)
        await auth.down()


def env(secret: str, name: str, version: int = 0) -> program_pb2.SecretMount:
    return program_pb2.SecretMount(secret=secret, env=name, version=version)


def file(secret: str, path: str) -> program_pb2.SecretMount:
    return program_pb2.SecretMount(secret=secret, file=path)


FIND = """
    import hashlib, json, os, resource, stat
    place = os.path.join(os.environ["LEPTON_SECRETS"], "keys/main.pem")
    print(json.dumps({
        "token": hashlib.sha256(os.environ["TOKEN"].encode()).hexdigest(), "old": len(os.environ["OLD"]),
        "key": hashlib.sha256(open(place, "rb").read()).hexdigest(),
        "modes": [stat.S_IMODE(os.stat(each).st_mode) for each in (place, os.environ["LEPTON_SECRETS"])],
        "core": resource.getrlimit(resource.RLIMIT_CORE)[1], "folder": os.environ["LEPTON_SECRETS"],
    }))
"""
MOUNTS = (env(TOKEN, "TOKEN"), env(TOKEN, "OLD", 1), file(KEY, "keys/main.pem"))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("requirements", ["", "requirements.txt"], ids=["forked", "cold"])
async def test_ranks_find_variables_and_files_which_are_in_memory_and_go_with_them(
    world: World, requirements: str
) -> None:
    name = f"find-{'cold' if requirements else 'forked'}"
    ended = await world.job(name, FIND, *MOUNTS, ranks=2, requirements=requirements)
    assert [each.state for each in ended] == [Slice.SUCCEEDED] * 2, (ended, world.lines(name))
    for rank in range(2):
        seen = json.loads(world.lines(name, rank)[-1])
        assert (seen["token"], seen["key"], seen["old"]) == (digest(world.token), digest(world.key), 9)
        assert seen["modes"] == [0o400, 0o700]
        assert seen["core"] <= 1
        folder = seen["folder"]
    assert kind_of(Path(folder).parent.parent) in ("tmpfs", "ramfs")
    await until(lambda: not Path(folder).exists())
    asked = [each for each in world.delivery.asked if each[1].endswith(name)]
    assert [generation for _, _, generation in asked] == [1]  # once for the gang, by the node's own certificate
    assert asked[0][0].endswith("/agent/n1")


def kind_of(folder: Path) -> str:
    mounts = {each.mountpoint: each.fstype for each in psutil.disk_partitions(all=True)}
    return next(mounts[str(each)] for each in (folder, *folder.parents) if str(each) in mounts)


async def test_a_process_finds_them_too_and_nobody_else_sees_them(world: World) -> None:
    code = (
        FIND
        + "\n    import sys; print(open(f'/proc/{os.getppid()}/status').read()[:0], end='')\n    sys.exit('done')\n"
    )
    ended = await world.process("process", code, *MOUNTS)
    assert ended.message == "done (exit code 1)", ended
    workload = "projects/acme/workloads/sleeper"
    sleeper = program_pb2.ProcessProgram(argv=["sleep", "600"], secrets=[env(TOKEN, "TOKEN"), file(KEY, "k")])
    world.agents.scheduler.start(workload, {N1: (0,)}, program_pb2.Program(process=sleeper))
    await world.agents.scheduler.reported(workload, 0, Slice.RUNNING)
    agent = psutil.Process(world.agents.agents["n1"].process.pid)
    around = [agent, *agent.children(recursive=True)]
    (own,) = (each for each in around if each.name() == "sleep")
    await until(lambda: own.environ())  # the kernel names a new program a moment before it shows its environment
    assert own.environ()["TOKEN"] == world.token  # the control: it is found where it is
    folder = Path(own.environ()["LEPTON_SECRETS"])
    assert (folder / "k").read_text() == world.key
    for each in around:
        assert PREFIX not in str(each.cmdline())
        assert each.pid == own.pid or PREFIX not in str(each.environ())
    world.agents.scheduler.stop(N1, workload)
    await until(lambda: not folder.exists())


TELL = """
    import base64, json, os, sys, urllib.parse
    token, key = os.environ["TOKEN"], open(os.environ["LEPTON_SECRETS"] + "/k").read()
    print("plain", token)
    print("json", json.dumps({"password": token, "key": key}))
    print("base64", base64.b64encode(token.encode()).decode(), base64.urlsafe_b64encode(token.encode()).decode())
    print("hex", token.encode().hex(), token.encode().hex().upper())
    print("quoted", urllib.parse.quote(token, safe=""))
    print(key)
    sys.stdout.write("x" * 8000); sys.stdout.flush()
    sys.stdout.write(token * 3 + "y" * 30000 + token[:20]); sys.stdout.flush()
    sys.stdout.write(token[20:] + " end\\n")
    print("warning", token, file=sys.stderr)
    with os.fdopen(int(os.environ["LEPTON_REPORT_FD"]), "wb", buffering=0) as reports:
        reports.write(json.dumps({"kind": "state", "phase": "with " + token}).encode() + b"\\n")
        reports.write(json.dumps({"kind": "metrics", "step": 1, "values": {token: 1.0}}).encode() + b"\\n")
    raise RuntimeError("cannot log in with " + token)
"""


async def test_what_a_rank_says_in_any_way_has_no_secret_in_it(world: World) -> None:
    (ended,) = await world.job("tell", TELL, env(TOKEN, "TOKEN"), file(KEY, "k"))
    assert "cannot log in with ***" in ended.message
    await world.agents.trainer.until(lambda: "warning ***" in world.lines("tell"))
    lines = world.lines("tell")
    assert lines[:2] == ["plain ***", 'json {"password": "***", "key": "***"}']
    assert (lines[2], lines[4]) == ("base64 ***= ***=", "quoted ***")
    assert lines[3] == "hex *** ***"
    assert "x" * 8000 in "".join(lines)
    assert any(line.endswith(("***", "*** end")) for line in lines)
    said = world.said()
    assert "RuntimeError" in said
    for form in forms(world.token, world.key):
        assert form not in said, form


async def test_without_the_mask_the_same_rank_tells_it(world: World) -> None:
    code = f"TOKEN = {PREFIX!r} + 'not-known-to-anybody'\nprint('plain', TOKEN)\nraise RuntimeError(TOKEN)\n"
    await world.job("control", code)
    await world.agents.trainer.until(lambda: world.lines("control"))
    assert f"plain {PREFIX}not-known-to-anybody" in world.lines("control")
    assert f"{PREFIX}not-known-to-anybody" in world.said()


async def test_a_process_that_fails_says_its_last_words_without_them(world: World) -> None:
    code = "import os, sys; sys.exit('no access with ' + os.environ['TOKEN'])"
    ended = await world.process("words", code, env(TOKEN, "TOKEN"))
    assert ended.message == "no access with *** (exit code 1)"


SCAN = """
    import hashlib, sys
    prefix, wanted, length = sys.argv[1].encode() + b"of-secrets-", sys.argv[2], int(sys.argv[3])
    found = 0
    for line in open("/proc/self/maps"):
        fields = line.split()
        if "r" not in fields[1] or line.rstrip().endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
            continue
        start, end = (int(each, 16) for each in fields[0].split("-"))
        if end - start > 256 << 20:
            continue
        with open("/proc/self/mem", "rb") as memory:
            memory.seek(start)
            try:
                data = memory.read(end - start)
            except OSError:
                continue
        at = data.find(prefix)
        while at >= 0:
            found += hashlib.sha256(data[at:at + length]).hexdigest() == wanted
            at = data.find(prefix, at + 1)
    print("found" if found else "nothing")
"""


async def scanned(world: World, name: str, text: str, **code_facts: Any) -> list[str]:
    argv = [PREFIX.removesuffix("of-secrets-"), digest(text), str(len(text))]
    (ended,) = await world.job(name, SCAN, argv=argv, **code_facts)
    assert ended.state == Slice.SUCCEEDED, (ended, world.lines(name))
    return world.lines(name)


async def test_a_rank_does_not_inherit_what_others_were_given(world: World) -> None:
    """Ranks are forks of one launcher: what passes through its memory is in all that are forked later."""
    (ended,) = await world.job("before", "print(1)", env(TOKEN, "TOKEN"), file(KEY, "k"))
    assert ended.state == Slice.SUCCEEDED
    assert await scanned(world, "scan", world.token) == ["nothing"]
    plain = PREFIX + secrets.token_hex(16)  # the control: what a rank was given itself is found
    assert await scanned(world, "scan-own", plain, environment={"TOKEN": plain}) == ["found"]


async def test_what_runs_keeps_its_version_and_the_next_generation_gets_the_newest(world: World) -> None:
    code = "import os, sys; sys.exit(str(len(os.environ['TOKEN'])))"
    key = "projects/acme/secrets/turning"
    world.delivery.values[key] = [b"1" * 10]
    first = await world.process("turning", code, env(key, "TOKEN"))
    world.delivery.values[key].append(b"1" * 20)
    second = await world.process("turning", code, env(key, "TOKEN"), generation=2)
    pinned = await world.process("pinned", code, env(key, "TOKEN", 1))
    assert [each.message.split()[0] for each in (first, second, pinned)] == ["10", "20", "10"]


async def test_a_secret_that_cannot_be_had_ends_the_job_with_advice(world: World) -> None:
    world.delivery.refusal = FailedPrecondition("SECRET_DISABLED", secret=TOKEN)
    try:
        (ended,) = await world.job("disabled", "print(1)", env(TOKEN, "TOKEN"))
        process = await world.process("disabled-process", "print(1)", env(TOKEN, "TOKEN"))
    finally:
        world.delivery.refusal = None
    assert "SECRET_DISABLED" in ended.message or f"{TOKEN} is disabled" in ended.message
    assert process.state == Slice.FAILED
    events = world.agents.trainer.events["projects/acme/jobs/disabled", 1, 0]
    await world.agents.trainer.until(lambda: events)
    assert getattr(events[0].failure, "class") == "USER_ERROR"
    assert "lepton secrets" in events[0].failure.advice


@pytest.mark.parametrize(
    ("value", "mount", "words"),
    [
        (b"\xff\xfe", env("projects/acme/secrets/odd", "ODD"), "give it as a file"),
        (b"a\0b", env("projects/acme/secrets/odd", "ODD"), "give it as a file"),
        (b"x", env("projects/acme/secrets/odd", "LD_PRELOAD"), "LD_PRELOAD"),
        (b"x", env("projects/acme/secrets/odd", "LEPTON_JOB"), "LEPTON_JOB"),
        (b"x" * 200_000, env("projects/acme/secrets/odd", "ODD"), "larger than"),
    ],
    ids=["not text", "nul", "loader", "agent's own", "too large"],
)
async def test_a_value_that_fits_nowhere_is_refused_and_not_told(
    world: World, value: bytes, mount: program_pb2.SecretMount, words: str
) -> None:
    world.delivery.values["projects/acme/secrets/odd"] = [value]
    ended = await world.process(f"odd-{secrets.token_hex(4)}", "print(1)", mount)
    assert ended.state == Slice.FAILED
    assert words in ended.message
    del world.delivery.values["projects/acme/secrets/odd"]


def forms(*values: str) -> list[str]:
    """How a value may appear: as it is, and encoded."""
    found = []
    for value in values:
        lines = [line for line in value.splitlines() if PREFIX in line]
        found += [*lines, value.encode().hex(), base64.b64encode(value.encode()).decode().rstrip("=")]
    return found
