"""Messages between workers and servers: a JSON header and named tensors, each with its length before it.

    4 bytes length of the header, 8 bytes length of the tensors (big-endian), header (JSON), tensors (safetensors)

Nothing is pickled. Both sides prove first that they know the gang's secret, without sending it.
"""

import hmac
import json
import secrets
import struct
from collections.abc import Mapping
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from lepton.errors import InvalidArgument

LENGTHS: Final = struct.Struct(">IQ")
_MOST_HEADER: Final = 1 << 16
_MOST_TENSORS: Final = 1 << 40

Header = dict[str, Any]


def encode(header: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> list[bytes]:
    """The parts of a message, to be sent one after the other."""
    text = json.dumps(header).encode()
    content = save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in (tensors or {}).items()})
    return [LENGTHS.pack(len(text), len(content)), text, content]


def lengths(data: bytes, *, most: int = _MOST_TENSORS) -> tuple[int, int]:
    """The lengths of header and tensors; InvalidArgument when no message is that long."""
    header, content = LENGTHS.unpack(data)
    if header > _MOST_HEADER or content > most:
        raise InvalidArgument("FRAME_INVALID", problem=f"it announces {header} + {content} bytes")
    return header, content


def decode(text: bytes, content: bytes) -> tuple[Header, dict[str, Tensor]]:
    """What a message says; InvalidArgument when it is none."""
    try:
        header = json.loads(text)
        if not isinstance(header, dict):
            raise TypeError("its header is no object")
        return header, load_tensors(content) if content else {}
    except (ValueError, TypeError, SafetensorError) as error:
        raise InvalidArgument("FRAME_INVALID", problem=str(error)) from error


def nonce() -> str:
    """A text that was never there before."""
    return secrets.token_hex(16)


def proof(secret: str, *facts: object) -> str:
    """Shows that one knows the secret."""
    return hmac.new(secret.encode(), json.dumps(facts).encode(), "sha256").hexdigest()


def is_proof(given: object, secret: str, *facts: object) -> bool:
    """Whether that is the proof, compared in constant time."""
    return isinstance(given, str) and hmac.compare_digest(given, proof(secret, *facts))
