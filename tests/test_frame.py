"""The build frame: pins are complete, names are allowed, heavy libraries stay out of the control plane."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
CODE = ("sdk/lepton", "chassis", "services", "deploy", "bench", "tests")
CONTROL_PLANE = ("auth", "scheduler", "trainer", "inference", "agent")


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def needed(requirements: list[str], seen: set[tuple[str, str]]) -> Iterator[str]:
    """Every distribution that these requirements bring, ours left out, in this environment."""
    for text in requirements:
        requirement = Requirement(text)
        for extra in ["", *sorted(requirement.extras)]:
            name = canonicalize_name(requirement.name)
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            if not name.startswith("lepton"):
                yield name
            children = [Requirement(child) for child in distribution(name).requires or []]
            wanted = [child for child in children if child.marker is None or child.marker.evaluate({"extra": extra})]
            yield from needed([f"{child.name}[{','.join(child.extras)}]" for child in wanted], seen)


def declared(project: str) -> list[str]:
    table = tomllib.loads((ROOT / project / "pyproject.toml").read_text())["project"]
    return [*table["dependencies"], *(line for extra in table["optional-dependencies"].values() for line in extra)]


def test_every_package_that_is_installed_is_pinned() -> None:
    missing = set(needed([*declared("."), *declared("sdk")], set())) - set(pins())
    assert not missing, f"add to constraints.txt: {sorted(missing)}"


def test_nothing_is_pinned_that_nobody_needs() -> None:
    idle = set(pins()) - set(needed([*declared("."), *declared("sdk")], set()))
    assert not idle, f"in constraints.txt but needed by neither pyproject.toml: {sorted(idle)}"


def test_what_is_installed_is_what_is_pinned() -> None:
    other = {name: distribution(name).version for name in pins()}
    assert {name: version for name, version in other.items() if version.split("+")[0] != pins()[name]} == {}


def test_the_grpc_family_moves_together() -> None:
    family = {version for name, version in pins().items() if name.startswith("grpcio")}
    assert family == {"1.81.1"}


def test_the_wheels_of_the_tools_are_pinned_by_hash() -> None:
    for file in sorted((ROOT / "deploy/tools").glob("*.txt")):
        entries = file.read_text().replace("\\\n", " ").splitlines()
        for entry in [entry for entry in entries if entry and not entry.startswith("#")]:
            assert re.fullmatch(r"[\w-]+==[\d.]+(\s+--hash=sha256:[0-9a-f]{64})+", entry), f"{file.name}: {entry}"


def test_no_file_is_named_after_nothing() -> None:
    forbidden = {"utils", "util", "helpers", "helper", "common", "base", "misc", "manager"}
    files = [path.relative_to(ROOT) for folder in CODE for path in (ROOT / folder).rglob("*.py")]
    assert [str(file) for file in files if forbidden & {file.stem, *file.parts[:-1]}] == []


def test_make_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    targets = {name for name in phony[1].split() if not name.startswith(("check-", "$"))}
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split()[0] for line in listed.splitlines()} == targets


@pytest.mark.parametrize("service", CONTROL_PLANE)
@pytest.mark.integration
def test_a_service_starts_without_loading_torch(service: str) -> None:
    """A torch import costs two seconds and 200 MB in each process; only ranks and the launcher pay it.

    Of onnx (0.1 s, 12 MB) the inference service makes the graphs of pipelines; nobody runs them here.
    """
    unwanted = {"torch", "onnxruntime", "onnx"} - ({"onnx"} if service == "inference" else set())
    program = f"import sys, services.{service}.__main__; print(sorted({unwanted} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "[]"
