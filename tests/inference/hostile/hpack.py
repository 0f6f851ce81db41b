"""As much of HPACK (RFC 7541) as it takes to send literals and to find one header, `grpc-status`, in what comes back.

Strings stay as they are coded: what is looked for is coded the same way and compared. A few answers a connection do not
fill the dynamic table, so nothing is ever evicted.
"""

from typing import Final

_STATIC: Final = 61
_CODES: Final = {
    "a": "00011",
    "c": "00100",
    "s": "01000",
    "t": "01001",
    "g": "100110",
    "p": "101011",
    "r": "101100",
    "u": "101101",
    "-": "010110",
    "0": "00000",
    "1": "00001",
    "2": "00010",
    "3": "011001",
    "4": "011010",
    "5": "011011",
    "6": "011100",
    "7": "011101",
    "8": "011110",
    "9": "011111",
}
"""Appendix B, the characters of `grpc-status` and of numbers."""


def literal(name: str, value: str) -> bytes:
    """A header that enters no table."""
    return b"\0" + _text(name.encode()) + _text(value.encode())


def _text(raw: bytes) -> bytes:
    if len(raw) < 127:
        return bytes((len(raw),)) + raw
    rest, prefix = len(raw) - 127, bytearray(b"\x7f")
    while rest >= 128:
        prefix.append(rest % 128 + 128)
        rest //= 128
    return bytes(prefix) + bytes((rest,)) + raw


def _coded(text: str) -> set[bytes]:
    """A text in both of its forms."""
    bits = "".join(_CODES[each] for each in text)
    bits += "1" * (-len(bits) % 8)
    return {text.encode(), int(bits, 2).to_bytes(len(bits) // 8)}


_STATUS: Final = _coded("grpc-status")
_VALUES: Final = {form: str(code) for code in range(17) for form in _coded(str(code))}


class Answers:
    """The decoder of one connection."""

    def __init__(self) -> None:
        self._table: list[tuple[bytes, bytes]] = []  # the newest first

    def status(self, block: bytes) -> str | None:
        """The gRPC status in a block of headers, if it has one."""
        at, found = 0, None
        while at < len(block):
            first = block[at]
            if first & 0x80:
                index, at = _integer(block, at, 7)
                name, value = self._entry(index)
            elif first & 0xE0 == 0x20:  # the size of the table
                _, at = _integer(block, at, 5)
                continue
            else:
                is_kept = bool(first & 0x40)
                index, at = _integer(block, at, 6 if is_kept else 4)
                if index:
                    name = self._entry(index)[0]
                else:
                    name, at = _string(block, at)
                value, at = _string(block, at)
                if is_kept:
                    self._table.insert(0, (name, value))
            if name in _STATUS:
                found = _VALUES.get(value, "?")
        return found

    def _entry(self, index: int) -> tuple[bytes, bytes]:
        return (b"", b"") if index <= _STATIC else self._table[index - _STATIC - 1]


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    limit = (1 << bits) - 1
    value, at, shift = block[at] & limit, at + 1, 0
    if value < limit:
        return value, at
    while True:
        value, at, shift = value + ((block[at] & 127) << shift), at + 1, shift + 7
        if not block[at - 1] & 128:
            return value, at


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    length, at = _integer(block, at, 7)
    return block[at : at + length], at + length
