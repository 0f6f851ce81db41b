"""What runs on a node is told whom to trust at the collector, by a file that it can read and that follows the mesh."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from chassis.config import Telemetry
from lepton.train.environment import RankEnvironment
from services.agent import confinement
from services.agent.collector_roots import node_roots
from services.agent.config import AgentConfig
from services.agent.confinement import Confinement
from services.agent.environment import task_variables
from services.agent.runner import Surroundings
from tests.harness.mesh_ca import MeshCa

OVER_TLS = Telemetry(otlp_endpoint="https://127.0.0.1:4317")
VARIABLE = "OTEL_EXPORTER_OTLP_CERTIFICATE"


def config(folder: Path, telemetry: Telemetry = OVER_TLS, collector: str = "") -> AgentConfig:
    return AgentConfig(
        node="n1", state_dir=folder, artifacts="file:///nowhere", telemetry=telemetry, collector=collector
    )


def surroundings(roots: Path | None) -> Surroundings:
    return Surroundings(
        address="127.0.0.1",
        artifacts="file:///nowhere",
        otlp_endpoint=OVER_TLS.otlp_endpoint,
        otlp_certificate=roots,
        device_uuids={},
    )


def test_the_file_follows_the_authorities_of_the_mesh(tmp_path: Path) -> None:
    ca = MeshCa()
    member = ca.member("agent/n1")
    roots = node_roots(config(tmp_path), member)
    assert roots is not None
    assert roots.read_bytes() == ca.bundle_pem
    ca.publish_root()
    assert roots.read_bytes() != ca.bundle_pem
    member.replace(ca.issue("agent/n1"))
    assert roots.read_bytes() == ca.bundle_pem


def test_an_authority_of_the_operators_is_kept_instead(tmp_path: Path) -> None:
    own = tmp_path / "own.pem"
    own.write_text("of the operator\n")
    member = MeshCa().member("agent/n1")
    roots = node_roots(config(tmp_path, replace(OVER_TLS, otlp_certificate=str(own))), member)
    assert roots is not None
    assert roots.read_text() == "of the operator\n"
    member.replace(MeshCa().issue("agent/n1"))
    assert roots.read_text() == "of the operator\n"


def test_without_tls_there_is_none(tmp_path: Path) -> None:
    member, plain = MeshCa().member("agent/n1"), Telemetry(otlp_endpoint="http://127.0.0.1:4317")
    assert node_roots(config(tmp_path, plain, collector="http://127.0.0.1:4318"), member) is None
    assert node_roots(config(tmp_path, plain, collector="https://127.0.0.1:4318"), member) is not None, "for Triton"


def test_what_runs_is_told_by_opentelemetrys_own_name(tmp_path: Path) -> None:
    roots = tmp_path / "collector" / "roots.pem"
    told = task_variables(surroundings(roots), "acme", 1, "", 4)
    assert told[VARIABLE] == str(roots)
    assert RankEnvironment.parse(told).otlp_certificate == roots
    # An empty one would be read by OpenTelemetry's HTTP exporter as: trust anybody.
    assert VARIABLE not in task_variables(surroundings(None), "acme", 1, "", 4)


def test_a_confined_rank_reads_it_and_what_replaces_it_and_nothing_beside_it(tmp_path: Path) -> None:
    ca = MeshCa()
    member = ca.member("agent/n1")
    roots = node_roots(config(tmp_path), member)
    assert roots is not None
    hidden = tmp_path / "identity.pem"
    hidden.write_text("the agent's own\n")
    shown = tuple(map(str, surroundings(roots).shown_of("acme")))
    held = Confinement(hidden=(str(tmp_path),), shown=shown)

    def can_read(path: Path) -> bool:
        command = confinement.command(held, ("/bin/cat", str(path)))
        return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0

    if can_read(hidden):
        pytest.skip("this kernel has no Landlock")  # with it this is the negative control
    assert can_read(roots)
    ca.publish_root()
    member.replace(ca.issue("agent/n1"))
    assert can_read(roots)
