"""The bytes of a spool: frames with length and checksum, so that what a crash cut off is recognised and passed over."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

HEAD: Final = struct.Struct(">IIBQ")  # length of the payload + 1, CRC-32, kind, ticket


class Kind(IntEnum):
    """What a frame says."""

    SEGMENT = 0  # the first frame of every file: the id of its spool
    BEGIN = 1  # a call is about to be served; the entry, should this be the last that is heard of it
    END = 2  # how the call of that ticket ended: the entry, numbered
    DROP = 3  # the call of that ticket is recorded elsewhere


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, and the position behind it."""

    kind: Kind
    ticket: int
    payload: bytes
    end: int


def frame(kind: Kind, ticket: int, payload: bytes = b"") -> bytes:
    """A frame's bytes."""
    return HEAD.pack(len(payload) + 1, zlib.crc32(payload, kind), kind, ticket) + payload


def scan(data: bytes, start: int = 0) -> Iterator[Frame]:
    """The whole frames in order; ends at space that was never written, and at the first frame that is damaged."""
    at = start
    while at + HEAD.size <= len(data):
        length, crc, kind, ticket = HEAD.unpack_from(data, at)
        payload = data[at + HEAD.size : at + HEAD.size + length - 1]
        if length == 0 or len(payload) != length - 1 or kind > Kind.DROP or zlib.crc32(payload, kind) != crc:
            return
        at += HEAD.size + length - 1
        yield Frame(Kind(kind), ticket, payload, at)
