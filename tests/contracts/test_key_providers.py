"""Every key provider keeps the contract: a key file, a keyring that changes, AWS KMS, and one after the other."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.stub import Stubber
from moto.server import ThreadedMotoServer

from chassis.config import ConfigError
from lepton.artifacts import KeyFile, Keyring, RotatingKeyProvider
from lepton.artifacts.aws_kms import AwsKms
from lepton.errors import FailedPrecondition, Unavailable
from services.auth.kek import Kek
from services.auth.key_providers import ProjectKeySettings, Succession, key_provider
from services.auth.keyring import add_key, create_keyring, retire_key
from tests.contracts.key_provider import KeyProviderContract

pytestmark = pytest.mark.integration

REGION = "eu-central-1"


@pytest.fixture(scope="module")
def kms_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def kms(kms_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return botocore.session.get_session().create_client("kms", region_name=REGION, endpoint_url=kms_endpoint)


class TestKeyFile(KeyProviderContract):
    @pytest.fixture
    def provider(self) -> RotatingKeyProvider:
        self.keys = {"a": os.urandom(32)}
        return KeyFile.of(self.keys)

    @pytest.fixture
    def rotate(self) -> Callable[[], RotatingKeyProvider]:
        return lambda: KeyFile.of({"b": os.urandom(32), **self.keys})

    @pytest.fixture
    def stranger(self) -> RotatingKeyProvider:
        return KeyFile.of({"a": os.urandom(32)})  # of the same name, which does not help it


class TestKeyring(KeyProviderContract):
    @pytest.fixture
    def provider(self, tmp_path: Path) -> RotatingKeyProvider:
        self.path = tmp_path / "keyring"
        assert create_keyring(self.path)
        self.keyring = Keyring(self.path)
        return self.keyring

    @pytest.fixture
    def rotate(self) -> Callable[[], RotatingKeyProvider]:
        def rotated() -> RotatingKeyProvider:
            add_key(self.path)
            return self.keyring  # the same: it reads its file again

        return rotated

    @pytest.fixture
    def stranger(self, tmp_path: Path) -> RotatingKeyProvider:
        create_keyring(tmp_path / "other")
        return Keyring(tmp_path / "other")


class TestAwsKms(KeyProviderContract):
    @pytest.fixture
    def provider(self, kms: Any, kms_endpoint: str) -> RotatingKeyProvider:
        self.endpoint, self.kms = kms_endpoint, kms
        return self.made()

    @pytest.fixture
    def rotate(self) -> Callable[[], RotatingKeyProvider]:
        return self.made

    @pytest.fixture
    def stranger(self) -> RotatingKeyProvider:
        return KeyFile.of({"a": os.urandom(32)})

    def made(self) -> RotatingKeyProvider:
        key_id = self.kms.create_key()["KeyMetadata"]["KeyId"]
        return AwsKms(key_id, region=REGION, endpoint_url=self.endpoint)


class TestSuccession(KeyProviderContract):
    """A keyring gives way to KMS, as in a service whose settings were changed."""

    @pytest.fixture
    def provider(self, tmp_path: Path) -> RotatingKeyProvider:
        create_keyring(tmp_path / "keyring")
        self.settings = {"keyring_file": str(tmp_path / "keyring")}
        return key_provider(ProjectKeySettings(**self.settings), Kek(b"k" * 32))  # type: ignore[arg-type]

    @pytest.fixture
    def rotate(self, kms: Any, kms_endpoint: str) -> Callable[[], RotatingKeyProvider]:
        def rotated() -> RotatingKeyProvider:
            key_id = kms.create_key()["KeyMetadata"]["KeyId"]
            settings = ProjectKeySettings(
                keyring_file=self.settings["keyring_file"],
                kms_key_id=key_id,
                kms_region=REGION,
                kms_endpoint_url=kms_endpoint,
            )
            return key_provider(settings, Kek(b"k" * 32))

        return rotated

    @pytest.fixture
    def stranger(self) -> RotatingKeyProvider:
        return Succession([KeyFile.of({"x": os.urandom(32)}), KeyFile.of({"y": os.urandom(32)})])


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("DisabledException", "KEY_PROVIDER_REFUSED"),
        ("KMSInvalidStateException", "KEY_PROVIDER_REFUSED"),  # it will be deleted
        ("AccessDeniedException", "KEY_PROVIDER_REFUSED"),
        ("InvalidCiphertextException", "ARTIFACT_KEY_MISSING"),
        ("ThrottlingException", "KEY_PROVIDER_UNAVAILABLE"),
        ("KMSInternalException", "KEY_PROVIDER_UNAVAILABLE"),
    ],
)
def test_what_kms_answers_is_told_by_what_can_be_done(kms: Any, kms_endpoint: str, code: str, reason: str) -> None:
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    provider = AwsKms(key_id, region=REGION, endpoint_url=kms_endpoint)
    wrapped = provider.wrap(b"k" * 32)
    with Stubber(provider._client) as answers:
        answers.add_client_error("decrypt", code)
        with pytest.raises((FailedPrecondition, Unavailable)) as caught:
            provider.unwrap(wrapped)
    assert caught.value.reason == reason
    assert provider.unwrap(wrapped) == b"k" * 32  # control: nothing else was in the way


def test_a_key_that_kms_does_not_have_is_told(kms: Any, kms_endpoint: str) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        AwsKms("alias/none", region=REGION, endpoint_url=kms_endpoint).wrap(b"k" * 32)
    assert caught.value.reason == "KEY_PROVIDER_REFUSED"


def test_kms_that_does_not_answer_is_unavailable_and_not_a_lost_key(kms: Any) -> None:
    provider = AwsKms("any", region=REGION, endpoint_url="http://127.0.0.1:9")
    with pytest.raises(Unavailable) as caught:
        provider.wrap(b"k" * 32)
    assert caught.value.reason == "KEY_PROVIDER_UNAVAILABLE"


def test_a_keyring_that_cannot_be_read_any_more_leaves_the_former_keys_in_use(tmp_path: Path) -> None:
    path = tmp_path / "keyring"
    create_keyring(path)
    keyring = Keyring(path)
    wrapped = keyring.wrap(b"k" * 32)
    path.write_text("half a li")
    assert keyring.unwrap(wrapped) == b"k" * 32
    path.unlink()
    assert keyring.unwrap(wrapped) == b"k" * 32


def test_a_key_of_a_keyring_goes_only_when_it_wraps_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keyring"
    create_keyring(path)
    assert not create_keyring(path)
    first = Keyring(path).current
    with pytest.raises(FailedPrecondition, match="add another"):
        retire_key(path, first, {})
    second = add_key(path)
    with pytest.raises(FailedPrecondition, match="3 keys"):
        retire_key(path, first, {first: 3})
    retire_key(path, first, {second: 3})
    assert [line.partition(" ")[0] for line in path.read_text().splitlines()] == [second]
    assert path.stat().st_mode & 0o777 == 0o600


def test_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kms_key_id"):
        ProjectKeySettings(kms_region=REGION)
    with pytest.raises(ConfigError, match="rewrap_every_s"):
        ProjectKeySettings(rewrap_every_s=0)
    with pytest.raises(ConfigError, match="keyring_file"):
        key_provider(ProjectKeySettings(keyring_file=str(tmp_path / "none")), Kek(b"k" * 32))
