"""What is known of a rank's memory, on every kind of machine: cgroup 2, cgroup 1, neither."""

from pathlib import Path

import pytest

from services.agent.memory import MemoryWatch

MIB = 1 << 20


def machine(root: Path, *, kills: int = 0) -> None:
    (root / "proc/7").mkdir(parents=True, exist_ok=True)
    (root / "proc/meminfo").write_text("MemTotal:       8388608 kB\nMemFree: 1 kB\n")
    (root / "proc/vmstat").write_text(f"nr_free_pages 1\noom_kill {kills}\n")
    (root / "proc/7/status").write_text("Name: rank\nVmHWM:     2048 kB\nVmRSS: 1024 kB\n")


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize("is_container", [False, True])
def test_the_ranks_own_cgroup_speaks_for_it(tmp_path: Path, is_container: bool) -> None:
    machine(tmp_path, kills=3)
    write(tmp_path / "proc/7/cgroup", "0::/lepton/w.1.0\n")
    folder = tmp_path / "sys/fs/cgroup" / ("" if is_container else "lepton/w.1.0")
    write(folder / "memory.events", "low 0\noom 0\noom_kill 5\n")
    write(folder / "memory.max", f"{512 * MIB}\n")
    watch = MemoryWatch(7, tmp_path)
    assert watch.end().oom_kills == 0, "what happened before is not its own"
    write(folder / "memory.events", "low 0\noom 1\noom_kill 6\n")
    assert watch.end().oom_kills == 1
    assert watch.end().limit_bytes == 512 * MIB


def test_cgroup_1_says_the_same_in_other_words(tmp_path: Path) -> None:
    machine(tmp_path)
    write(tmp_path / "proc/7/cgroup", "9:name=systemd:/\n4:memory:/lepton/w.1.0\n0::/\n")
    folder = tmp_path / "sys/fs/cgroup/memory/lepton/w.1.0"
    write(folder / "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    write(folder / "memory.limit_in_bytes", f"{256 * MIB}\n")
    watch = MemoryWatch(7, tmp_path)
    write(folder / "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert (watch.end().oom_kills, watch.end().limit_bytes) == (1, 256 * MIB)


def test_without_a_cgroup_the_machine_speaks(tmp_path: Path) -> None:
    machine(tmp_path, kills=3)
    watch = MemoryWatch(7, tmp_path)
    machine(tmp_path, kills=4)
    memory = watch.end(peak_bytes=5 * MIB)
    assert (memory.oom_kills, memory.limit_bytes, memory.peak_bytes) == (1, 8 << 30, 5 * MIB)


def test_what_was_used_is_remembered_when_the_process_is_gone(tmp_path: Path) -> None:
    machine(tmp_path)
    watch = MemoryWatch(7, tmp_path)
    (tmp_path / "proc/7/status").unlink()
    watch.look()
    assert watch.end().peak_bytes == 2 * MIB


def test_a_cgroup_without_a_limit_is_held_to_the_machines_memory(tmp_path: Path) -> None:
    machine(tmp_path)
    write(tmp_path / "proc/7/cgroup", "0::/\n")
    write(tmp_path / "sys/fs/cgroup/memory.events", "oom_kill 0\n")
    write(tmp_path / "sys/fs/cgroup/memory.max", "max\n")
    assert MemoryWatch(7, tmp_path).end().limit_bytes == 8 << 30


def test_a_process_that_is_ending_is_in_the_roots_cgroup_which_says_nothing_of_it(tmp_path: Path) -> None:
    machine(tmp_path)
    write(tmp_path / "proc/7/cgroup", "4:memory:/lepton/w.1.0\n")
    own, root = tmp_path / "sys/fs/cgroup/memory/lepton/w.1.0", tmp_path / "sys/fs/cgroup/memory"
    for folder in (own, root):
        write(folder / "memory.oom_control", "oom_kill 0\n")
    watch = MemoryWatch(7, tmp_path)
    write(own / "memory.oom_control", "oom_kill 1\n")
    write(tmp_path / "proc/7/cgroup", "4:memory:/\n")
    (tmp_path / "proc/7/status").write_text("Name: rank\nState: Z (zombie)\n")
    watch.look()
    assert watch.end().oom_kills == 1
