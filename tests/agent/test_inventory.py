"""What a machine says it has."""

from pathlib import Path

import psutil
import pytest

from services.agent.inventory import Declared, UsageMeter, capacity, devices, read_query

# As printed by an H200 and by a GH200, whose memory is shared with the host.
QUERY = "0, NVIDIA H200, 143771, GPU-11111111-aaaa\n1, NVIDIA GH200 480GB, [N/A], GPU-22222222-bbbb\n"


async def test_declared_devices_are_numbered_and_marked_as_virtual() -> None:
    found = await devices([Declared(model="virtual", memory_bytes=5), Declared(model="H200")])
    assert [(each.index, each.model, each.memory_bytes) for each in found] == [(0, "virtual", 5), (1, "H200", 0)]
    assert all(each.uuid.startswith("virtual-") for each in found)


def test_nvidia_smis_answer_is_read() -> None:
    first, second = read_query(QUERY)
    assert (first.index, first.model, first.memory_bytes, first.uuid) == (0, "H200", 143771 << 20, "GPU-11111111-aaaa")
    assert (second.model, second.memory_bytes) == ("GH200 480GB", 0)


async def test_a_machine_asks_nvidia_smi_when_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{QUERY}'\n".replace("\n1,", "\\n1,").replace("bbbb\n'", "bbbb\\n'"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert [each.model for each in await devices([])] == ["H200", "GH200 480GB"]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert await devices([]) == []


def test_amounts_are_measured_unless_set(tmp_path: Path) -> None:
    measured = capacity(cpu_milli=0, memory_bytes=0, storage_bytes=0, network_mbps=0, storage=tmp_path)
    assert measured.cpu_milli == 1000 * (psutil.cpu_count() or 1)
    assert measured.memory_bytes == psutil.virtual_memory().total
    declared = capacity(cpu_milli=500, memory_bytes=1 << 30, storage_bytes=5, network_mbps=100, storage=tmp_path)
    assert (declared.cpu_milli, declared.memory_bytes) == (500, 1 << 30)
    assert UsageMeter()().memory_bytes > 0
