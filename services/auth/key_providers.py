"""Who wraps the keys of projects: a keyring file, AWS KMS, or the key-encryption key where neither is configured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chassis.config import ConfigError
from lepton.artifacts.aws_kms import AwsKms
from lepton.artifacts.keys import KeyFile, Keyring, RotatingKeyProvider
from lepton.errors import FailedPrecondition, InvalidArgument
from services.auth.kek import Kek


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectKeySettings:
    """What wraps the keys of projects, and for how long former keys stay."""

    keyring_file: str = ""
    kms_key_id: str = ""
    kms_region: str = ""
    kms_endpoint_url: str = ""
    rewrap_every_s: float = 60.0
    retire_after_s: float = 3600.0  # a former key of a project is kept for so long in any case

    def __post_init__(self) -> None:
        if self.rewrap_every_s <= 0 or self.retire_after_s < 0:
            raise ConfigError("project_keys: rewrap_every_s must be more than 0, retire_after_s not less")
        if self.kms_key_id == "" and (self.kms_region or self.kms_endpoint_url):
            raise ConfigError("project_keys.kms_key_id is missing: the region or endpoint of KMS is set")

    @property
    def keyring(self) -> Path | None:
        """The keyring file, if one is configured."""
        return Path(self.keyring_file) if self.keyring_file else None


class Succession:
    """Providers that followed one another: the first wraps, all of them unwrap."""

    def __init__(self, providers: Sequence[RotatingKeyProvider]) -> None:
        self._providers = tuple(providers)

    @property
    def current(self) -> str:
        """The key of the first that wraps now."""
        return self._providers[0].current

    def is_current(self, wrapped: bytes) -> bool:
        """Whether that key has wrapped this."""
        return self._providers[0].is_current(wrapped)

    def wrap(self, data_key: bytes) -> bytes:
        """The data key under that key."""
        return self._providers[0].wrap(data_key)

    def unwrap(self, wrapped: bytes) -> bytes:
        """The data key again, by whichever has wrapped it."""
        for provider in self._providers[:-1]:
            try:
                return provider.unwrap(wrapped)
            except FailedPrecondition as error:
                if error.reason != "ARTIFACT_KEY_MISSING":
                    raise
        return self._providers[-1].unwrap(wrapped)


def key_provider(settings: ProjectKeySettings, kek: Kek) -> RotatingKeyProvider:
    """The provider that a configuration asks for; what the ones before it have wrapped stays readable."""
    providers: list[RotatingKeyProvider] = []
    if settings.kms_key_id:
        region, endpoint = settings.kms_region, settings.kms_endpoint_url
        providers.append(AwsKms(settings.kms_key_id, region=region, endpoint_url=endpoint))
    if settings.keyring is not None:
        try:
            providers.append(Keyring(settings.keyring))
        except InvalidArgument as error:
            raise ConfigError(f"project_keys.keyring_file: {'; '.join(error.fields.values())}") from error
    # Last, because it is there always: a store that began without a keyring goes on with one.
    providers.append(KeyFile.of({f"kek-{kek.id}": kek.derive("project keys")}))
    return Succession(providers)
