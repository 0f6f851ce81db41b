"""What the servers open while they are attacked: no file outside of their own folders, by the kernel's word."""

import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from tritonclient.grpc import service_pb2

from tests.harness.wait import until
from tests.inference.hostile.test_names import METHODS, NAMES
from tests.inference.hostile.world import World, good_request

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="package")]
_OPENED = re.compile(r'open(?:at)?\((?:[^,"]*, )?"((?:[^"\\]|\\.)*)"')


@asynccontextmanager
async def opened(world: World, report: Path) -> AsyncIterator[set[str]]:
    """The paths that Envoy, the Tritons and their stubs open within the block, filled at its end. Needs strace."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed (Debian: apt install strace)")
    pids = [argument for process in world.processes() for argument in ("-p", str(process.pid))]
    seen: set[str] = set()
    command = ["strace", "-f", "-q", "-s", "4096", "-e", "trace=open,openat,openat2", "-o", str(report), *pids]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as tracer:  # noqa: ASYNC220 (it ends with the block)
        try:
            await until(lambda: tracer.poll() is not None or _is_traced(world, tracer.pid), 30)
            if tracer.poll() is not None:
                pytest.skip(f"strace may not look here: {tracer.stderr.read() if tracer.stderr else b''!r}")
            yield seen
        finally:
            with suppress(ProcessLookupError):
                tracer.terminate()
            tracer.wait(30)
    traced = report.read_text(errors="replace")  # noqa: ASYNC240 (its writer has ended)
    seen |= {path.encode().decode("unicode_escape") for path in _OPENED.findall(traced)}


def _is_traced(world: World, by: int) -> bool:
    """Every process has the tracer; its threads are then attached too, or about to be."""
    return all(f"TracerPid:\t{by}\n" in Path(f"/proc/{each.pid}/status").read_text() for each in world.processes())


async def test_names_and_versions_open_no_file(unharmed: World, tmp_path: Path) -> None:
    """Not even a file within: a name that no deployment has reaches no replica, and a version is no path."""
    async with opened(unharmed, tmp_path / "trace") as seen:
        for name in NAMES.values():
            for method, request in METHODS.items():
                await unharmed.call(request(name).SerializeToString(), method=method)
        for version in ("../1", "1/../../outside", "/etc", "..", "1\0"):
            request = good_request()
            request.model_version = version
            await unharmed.call(request.SerializeToString())
    assert {path for path in seen if not path.startswith(("/proc/", "/sys/", "/dev/"))} <= ours(unharmed)
    assert not any("outside" in path or "passwd" in path for path in seen)


def ours(world: World) -> set[str]:
    """What Envoy writes while it runs, and what the C library reads to write the time into a log."""
    return {str(world.front.gateway.access_log), "/etc/localtime"}


async def test_the_tracer_sees_a_file_that_is_opened(unharmed: World, tmp_path: Path) -> None:
    """The negative control: asked past the gateway, Triton looks for a model's folder, and the tracer says so."""
    stub = await unharmed.beside._stub()
    async with opened(unharmed, tmp_path / "trace") as seen:
        with suppress(Exception):
            await stub.RepositoryModelLoad(service_pb2.RepositoryModelLoadRequest(model_name="demo.simple"), timeout=30)
    assert any(path.endswith("demo.simple/config.pbtxt") for path in seen), sorted(seen)[:40]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
async def test_nothing_stays_open_that_was_not_open_before(unharmed: World) -> None:
    """Descriptors of files, not of connections, before and after the worst of names."""

    def held() -> set[tuple[int, str]]:
        return {(each.pid, file.path) for each in unharmed.processes() for file in each.open_files()}

    before = held()
    for name in NAMES.values():
        await unharmed.call(good_request(name).SerializeToString())
    assert held() <= before | {(pid, str(unharmed.front.gateway.access_log)) for pid, _ in before}
