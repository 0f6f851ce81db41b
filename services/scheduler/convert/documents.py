"""Documents as they are stored in etcd."""

import hashlib

from google.protobuf.message import Message


def stored(message: Message) -> bytes:
    """A document as it is stored: equal bytes for equal messages."""
    return message.SerializeToString(deterministic=True)


def digest_of(message: Message) -> bytes:
    """Equal for equal messages."""
    return hashlib.sha256(stored(message)).digest()
