"""AWS KMS as a key provider: what it wraps, only a key that never leaves KMS unwraps.

It needs `kms:DescribeKey`, `kms:Encrypt` and `kms:Decrypt` on the key, with the machine's AWS credentials. KMS changes
the material of a key by itself where that is switched on; another key of KMS is another provider key.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from lepton.errors import FailedPrecondition, Unavailable

_LABEL: Final = 32
_PREFIX: Final = b"aws-kms:"
_CONTEXT: Final[Mapping[str, str]] = {"lepton": "data key"}  # in KMS' log of every use
_TIMEOUT_S: Final = 5


class AwsKms:
    """Wraps with a symmetric key of KMS, given by its id, ARN or alias."""

    def __init__(self, key_id: str, *, region: str = "", endpoint_url: str = "") -> None:
        self._key_id, self._region, self._endpoint_url = key_id, region, endpoint_url
        self._client: Any = None
        self._arn = ""

    @property
    def current(self) -> str:
        """The key's ARN, once it was asked for; until then what was configured."""
        return self._arn or self._key_id

    def is_current(self, wrapped: bytes) -> bool:
        """Whether this key has wrapped it."""
        return wrapped[:_LABEL] == self._label()

    def wrap(self, data_key: bytes) -> bytes:
        """The data key under the key. Raises Unavailable, FailedPrecondition (KEY_PROVIDER_REFUSED)."""
        label = self._label()
        answer = self._ask("encrypt", KeyId=self._arn, Plaintext=data_key, EncryptionContext=dict(_CONTEXT))
        return label + bytes(answer["CiphertextBlob"])

    def unwrap(self, wrapped: bytes) -> bytes:
        """The data key again, of this key or another that the credentials may use; KMS knows which one it was."""
        if not wrapped.startswith(_PREFIX):
            key = wrapped[:_LABEL].rstrip(b"\0").decode(errors="replace")
            raise FailedPrecondition("ARTIFACT_KEY_MISSING", key=key)
        answer = self._ask("decrypt", CiphertextBlob=wrapped[_LABEL:], EncryptionContext=dict(_CONTEXT))
        return bytes(answer["Plaintext"])

    def _label(self) -> bytes:
        if not self._arn:
            self._arn = str(self._ask("describe_key", KeyId=self._key_id)["KeyMetadata"]["Arn"])
        return _PREFIX + hashlib.sha256(self._arn.encode()).hexdigest()[: _LABEL - len(_PREFIX)].encode()

    def _ask(self, operation: str, **arguments: Any) -> Any:
        try:
            import botocore.exceptions
        except ImportError as error:
            raise FailedPrecondition("EXTRA_MISSING", package="botocore", extra="s3") from error
        try:
            if self._client is None:
                self._client = self._connected()
            return getattr(self._client, operation)(**arguments)
        except botocore.exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code == "InvalidCiphertextException":
                raise FailedPrecondition("ARTIFACT_KEY_MISSING", key=self.current) from error
            if code in ("ThrottlingException", "KMSInternalException", "DependencyTimeoutException"):
                raise Unavailable("KEY_PROVIDER_UNAVAILABLE", problem=code) from error
            raise FailedPrecondition("KEY_PROVIDER_REFUSED", key=self.current, problem=code) from error
        except botocore.exceptions.BotoCoreError as error:
            raise Unavailable("KEY_PROVIDER_UNAVAILABLE", problem=type(error).__name__) from error

    def _connected(self) -> Any:
        import botocore.config
        import botocore.session

        retries: Any = {"total_max_attempts": 3, "mode": "standard"}
        config = botocore.config.Config(connect_timeout=_TIMEOUT_S, read_timeout=_TIMEOUT_S, retries=retries)
        return botocore.session.get_session().create_client(
            "kms", region_name=self._region or None, endpoint_url=self._endpoint_url or None, config=config
        )
