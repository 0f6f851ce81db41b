"""Files of secrets lie in memory only, and where their job alone can enter."""

import os
import stat
from pathlib import Path

import pytest

from lepton.errors import FailedPrecondition, InvalidArgument
from lepton.internal.v1.secrets_pb2 import ResolveSecretsResponse, SecretValue
from lepton.scheduler.v1.program_pb2 import SecretMount
from services.agent import secret_files
from services.agent.secret_files import SecretFiles, folder_in_memory, kind_of
from services.agent.secrets import place

MOUNTS = {"/": "ext4", "/run": "tmpfs", "/dev/shm": "tmpfs", "/run/disk": "xfs"}


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/var/lib", "ext4"), ("/run/lepton/a", "tmpfs"), ("/run/disk/a", "xfs"), ("/run", "tmpfs")],
)
def test_a_path_is_of_the_kind_of_the_nearest_mount_above(path: str, kind: str) -> None:
    assert kind_of(Path(path), MOUNTS) == kind


def test_a_folder_on_a_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 1 0:1 / / rw - ext4 /dev/sda rw\n23 22 0:2 / {tmp_path}/memory rw - tmpfs tmpfs rw\n")
    monkeypatch.setattr(secret_files, "_MOUNTS", mounts)
    with pytest.raises(FailedPrecondition, match="lies on a disk"):
        folder_in_memory(tmp_path, tmp_path / "state", {})
    found = folder_in_memory(tmp_path / "memory", tmp_path / "state", {})  # the control
    assert found is not None
    assert found.parent == tmp_path / "memory"
    (tmp_path / "memory").mkdir()
    assert folder_in_memory(None, tmp_path / "state", {"XDG_RUNTIME_DIR": str(tmp_path / "memory")}) == found
    assert folder_in_memory(None, tmp_path / "state", {}) is None


def test_files_are_their_owners_only_and_gone_afterwards(tmp_path: Path) -> None:
    files = SecretFiles(tmp_path / "root")
    with files.prepared():
        with files.lay_out("job", {"a": b"1", "deep/down/b": b"2"}, None) as folder:
            assert (folder / "deep/down/b").read_bytes() == b"2"
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
            assert modes == {"job": 0o700, "a": 0o400, "deep": 0o700, "down": 0o700, "b": 0o400}
        assert not folder.exists()
        assert stat.S_IMODE((tmp_path / "root").stat().st_mode) == 0o711
    assert not (tmp_path / "root").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_files_are_of_the_projects_user(tmp_path: Path) -> None:
    files = SecretFiles(tmp_path / "root")
    with files.prepared(), files.lay_out("job", {"deep/a": b"1"}, 200_000) as folder:
        assert {path.stat().st_uid for path in (folder, *folder.rglob("*"))} == {200_000}


def test_what_a_former_agent_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "root" / "job").mkdir(parents=True)
    (tmp_path / "root" / "job" / "a").write_text("left")
    with SecretFiles(tmp_path / "root").prepared():
        assert list((tmp_path / "root").iterdir()) == []


def test_a_node_without_memory_to_lay_files_in_refuses_them() -> None:
    files = SecretFiles(None)
    with files.prepared(), pytest.raises(FailedPrecondition, match="secrets_dir"), files.lay_out("job", {}, None):
        pass


def test_a_folder_of_the_whole_machine_is_not_hidden_from_jobs_and_others_are() -> None:
    assert SecretFiles(Path("/dev/shm/lepton-x")).hidden == ()
    assert SecretFiles(Path("/run/lepton/x")).hidden == ("/run/lepton/x",)


def test_values_go_where_they_were_asked_for() -> None:
    name = "projects/acme/secrets/db"
    answer = ResolveSecretsResponse(
        secrets=[
            SecretValue(secret=name, wanted_version=0, version=2, value=b"new"),
            SecretValue(secret=name, wanted_version=1, version=1, value=b"old"),
        ]
    )
    mounts = [SecretMount(secret=name, env="NEW"), SecretMount(secret=name, version=1, file="a/old")]
    fetched = place(mounts, answer)
    assert (fetched.environment, fetched.files) == ({"NEW": "new"}, {"a/old": b"old"})
    assert "new" not in repr(fetched)
    with pytest.raises(FailedPrecondition, match="gave no value"):
        place([SecretMount(secret=name, version=7, env="NEW")], answer)
    with pytest.raises(InvalidArgument):
        place([SecretMount(secret=name, env="LD_PRELOAD")], answer)
