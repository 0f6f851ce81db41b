"""What a rank frees stays in its heap: counted in page faults."""

import subprocess
import sys
from pathlib import Path

import pytest

from services.agent.launcher.heap import keep_what_is_freed

pytestmark = pytest.mark.integration

STEPS = """
import resource
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    blocks = [b"x" * (1 << 20) for _ in range(32)]
    while blocks:
        blocks.pop()
for _ in range(5):
    step()
before = faults()
for _ in range(20):
    step()
print((faults() - before) // 20)
"""
KEEP = f"from {keep_what_is_freed.__module__} import keep_what_is_freed; keep_what_is_freed"


def faults_of_a_step(before: str = "") -> int:
    """Of 32 MiB, taken and freed."""
    done = subprocess.run([sys.executable, "-c", before + STEPS], check=True, capture_output=True, text=True, env={})
    return int(done.stdout)


def has_huge_pages() -> bool:
    """Whether the kernel hands memory out by megabytes unasked."""
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return enabled.exists() and "[always]" in enabled.read_text()


def test_a_step_finds_the_memory_that_the_step_before_has_freed() -> None:
    assert faults_of_a_step(f"{KEEP}({{}})") < 100
    assert faults_of_a_step() > 1000 or has_huge_pages()


def test_an_environment_that_decides_about_the_allocator_is_left_alone() -> None:
    for decided in ({"MALLOC_ARENA_MAX": "1"}, {"GLIBC_TUNABLES": ""}, {"LD_PRELOAD": "libjemalloc.so.2"}):
        assert faults_of_a_step(f"{KEEP}({decided})") > 1000 or has_huge_pages()
