"""Amounts of resources in the words that people use: cores, GiB and devices, not thousandths and bytes."""

from typing import Final

_GIB: Final = 1 << 30
_UNITS: Final = {
    "cpu_milli": ("cores", "", 1000),
    "memory_bytes": ("GiB", " of memory", _GIB),
    "storage_bytes": ("GiB", " of storage", _GIB),
    "network_mbps": ("Mbit/s", " of network", 1),
    "device_milli": ("devices", "", 1000),
}
RESOURCES: Final = tuple(_UNITS)


def number(resource: str, amount: float) -> str:
    """The bare number, to four places: 1500 thousandths of a device are 1.5."""
    size = _UNITS[resource][2] if resource in _UNITS else 1
    return f"{float(f'{amount / size:.4g}'):.12g}"


def amount_of(resource: str, amount: float) -> str:
    """The number with its unit: 3 GiB."""
    unit, figure = _UNITS[resource][0] if resource in _UNITS else resource, number(resource, amount)
    return f"{figure} {unit.removesuffix('s') if figure == '1' and unit != 'Mbit/s' else unit}"


def amount_in_full(resource: str, amount: float) -> str:
    """The number with its unit and of what it is: 3 GiB of memory."""
    kind = _UNITS[resource][1] if resource in _UNITS else ""
    return f"{amount_of(resource, amount)}{kind}"
