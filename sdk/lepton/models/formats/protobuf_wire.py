"""Protobuf's wire format, field by field, without a schema: for reading what is not trusted with bounded work.

Encoding: https://protobuf.dev/programming-guides/encoding/ (varint, 64-bit, length-delimited, 32-bit; no groups).
"""

from collections.abc import Iterator

Value = int | memoryview


def fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    """Every field of a message: its number, and its number or its bytes (a view, not a copy). Raises ValueError."""
    at, end = 0, len(data)
    while at < end:
        key, at = varint(data, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise ValueError("a field has the number 0")
        if kind == 0:
            value, at = varint(data, at)
            yield number, value
        elif kind == 2:
            size, at = varint(data, at)
            if size > end - at:
                raise ValueError(f"field {number} reaches past the end")
            yield number, data[at : at + size]
            at += size
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            if size > end - at:
                raise ValueError(f"field {number} reaches past the end")
            yield number, int.from_bytes(data[at : at + size], "little")
            at += size
        else:
            raise ValueError(f"field {number} has the unknown wire type {kind}")


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number at a place and the place behind it. Raises ValueError."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number is cut off or too long")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7


def varints(value: Value, *, most: int) -> list[int]:
    """The signed numbers of a repeated field: packed, or one of them. Raises ValueError beyond `most`."""
    if isinstance(value, int):
        return [signed(value)]
    found, at = list[int](), 0
    while at < len(value):
        if len(found) >= most:
            raise ValueError(f"a list has more than {most} numbers")
        number, at = varint(value, at)
        found.append(signed(number))
    return found


def signed(value: int) -> int:
    """A number of 64 bits as int64."""
    return value - (1 << 64) if value >= 1 << 63 else value


def text(value: Value, *, most: int) -> str:
    """A string of at most so many bytes. Raises ValueError."""
    if isinstance(value, int) or len(value) > most:
        raise ValueError(f"a name is longer than {most} bytes")
    return bytes(value).decode("utf-8")
