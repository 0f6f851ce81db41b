"""How a job's ranks divide the model and the data: the settings, parsed and checked; without torch."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from lepton.errors import InvalidArgument

VARIABLE: Final = "LEPTON_PARALLELISM"
_DATA: Final[Mapping[str, str]] = {
    "": "ddp", "DATA_UNSPECIFIED": "ddp", "DDP": "ddp", "FSDP": "fsdp", "PARAMETER_SERVER": "parameter_server",
}  # fmt: skip
_NUMBERS: Final[Mapping[str, str]] = {  # as proto3 JSON names them, and as they may be written by hand
    "tensor": "tensor", "pipeline": "pipeline", "microbatches": "microbatches", "servers": "servers",
    "maxStaleness": "max_staleness", "max_staleness": "max_staleness",
}  # fmt: skip
_DEFAULTS: Final[Mapping[str, int]] = {"tensor": 1, "pipeline": 1, "servers": 1, "max_staleness": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The division: `tensor` ranks a layer, `pipeline` stages; what these leave of the ranks divides the data."""

    data: str = "ddp"  # "ddp", "fsdp" or "parameter_server"
    tensor: int = 1
    pipeline: int = 1
    microbatches: int = 0  # parts of a batch in the pipeline at once; 0 = as many as stages
    servers: int = 1  # of "parameter_server": the first so many ranks
    max_staleness: int = 8  # of "parameter_server": steps that a worker may be ahead of the slowest

    def __post_init__(self) -> None:
        if self.data not in _DATA.values():
            raise _invalid("data", f"is {self.data!r}; use ddp, fsdp or parameter_server")
        for name, least in (("tensor", 1), ("pipeline", 1), ("microbatches", 0), ("servers", 1), ("max_staleness", 0)):
            if getattr(self, name) < least:
                raise _invalid(name, f"must be at least {least}")
        if self.data == "parameter_server" and (self.tensor > 1 or self.pipeline > 1):
            raise _invalid(
                "data", "workers of a parameter server hold the whole model; set tensor and pipeline to 1, or use DDP"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """The plan that proto3 JSON of a `Parallelism` holds; an empty text is the default plan."""
        try:
            document = json.loads(text) if text.strip() else {}
        except ValueError as error:
            raise _invalid("", f"is no JSON: {error}") from error
        if not isinstance(document, dict):
            raise _invalid("", "must be a JSON object")
        if unknown := set(document) - {"data", *_NUMBERS}:
            raise _invalid(min(unknown), "is not a setting")
        settings: dict[str, Any] = {"data": _data(document.get("data", ""))}
        for key, name in _NUMBERS.items():
            if key in document:
                settings[name] = _whole(name, document[key]) or _DEFAULTS.get(name, 0)
        return cls(**settings)

    @classmethod
    def of_environment(cls) -> Self:
        """The plan of this process's job, from LEPTON_PARALLELISM."""
        return cls.parse(os.environ.get(VARIABLE, ""))

    def data_size(self, world_size: int) -> int:
        """Over how many ranks (or groups of ranks) the data is divided; InvalidArgument when it does not come out."""
        if self.data == "parameter_server":
            if world_size <= self.servers:
                raise _invalid("servers", f"{self.servers} servers leave no worker of {world_size} ranks; add ranks")
            return world_size - self.servers
        if world_size % (self.tensor * self.pipeline):
            product = f"tensor x pipeline = {self.tensor} x {self.pipeline}"
            raise _invalid("tensor", f"{world_size} ranks are no multiple of {product}; change one of them")
        return world_size // (self.tensor * self.pipeline)


def _data(value: object) -> str:
    name = _DATA.get(str(value).upper())
    if name is None:
        raise _invalid("data", f"is {value!r}; use DDP, FSDP or PARAMETER_SERVER")
    return name


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise _invalid(name, "must be a whole number")
    return int(value)


def _invalid(name: str, problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={f"parallelism.{name}".rstrip("."): problem})
