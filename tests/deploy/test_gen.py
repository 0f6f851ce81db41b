"""Stubs are generated into their packages, and a stale one is found."""

import shutil
from pathlib import Path

import pytest

from deploy import gen

pytestmark = pytest.mark.integration

SERVICE = """
// A greeting.
syntax = "proto3";
package lepton.greeting.v1;
import "buf/validate/validate.proto";
import "google/api/field_behavior.proto";
// Greets.
service GreetingService {
  // Greets once.
  rpc Greet(GreetRequest) returns (GreetRequest);
}
// Whom to greet.
message GreetRequest {
  // The name.
  string name = 1 [(google.api.field_behavior) = REQUIRED, (buf.validate.field).string.min_len = 1];
}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(gen.ROOT / "third_party", tmp_path / "third_party")
    package = tmp_path / "protos/lepton/greeting/v1"
    package.mkdir(parents=True)
    (package / "greeting_service.proto").write_text(SERVICE)
    gen.run(tmp_path, check=False)
    return tmp_path


def test_a_service_gets_messages_and_stubs_with_types(root: Path) -> None:
    package = root / "sdk/lepton/greeting/v1"
    assert {path.name for path in package.iterdir()} == {
        "__init__.py",
        "greeting_service_pb2.py",
        "greeting_service_pb2.pyi",
        "greeting_service_pb2_grpc.py",
        "greeting_service_pb2_grpc.pyi",
    }
    assert (package.parent / "__init__.py").exists()
    assert (root / "sdk/buf/validate/validate_pb2.py").exists()
    assert not (root / "sdk/google").exists()


def test_a_second_run_has_nothing_to_do(root: Path) -> None:
    assert gen.run(root, check=True) == 0


def test_a_changed_proto_makes_its_stubs_stale(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = root / "protos/lepton/greeting/v1/greeting_service.proto"
    proto.write_text(proto.read_text().replace("string name = 1", "string whom = 1"))
    assert gen.run(root, check=True) > 0
    assert "stale: sdk/lepton/greeting/v1/greeting_service_pb2.py" in capsys.readouterr().out
    assert gen.run(root, check=False) > 0
    assert gen.run(root, check=True) == 0


def test_the_stubs_of_a_removed_proto_go_too(root: Path) -> None:
    package = root / "protos/lepton/greeting/v1"
    (package / "message.proto").write_text(
        '// M.\nsyntax = "proto3";\npackage lepton.greeting.v1;\n// M.\nmessage M {}\n'
    )
    gen.run(root, check=False)
    stub = root / "sdk/lepton/greeting/v1/message_pb2.py"
    assert stub.exists()
    (package / "message.proto").unlink()
    gen.run(root, check=False)
    assert not stub.exists()


def test_a_proto_that_does_not_compile_is_named(root: Path) -> None:
    (root / "protos/lepton/greeting/v1/broken.proto").write_text("not a proto")
    with pytest.raises(SystemExit, match="protoc refused"):
        gen.run(root, check=True)
