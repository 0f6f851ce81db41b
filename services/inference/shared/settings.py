"""The settings of shared model servers."""

from dataclasses import dataclass, field

from services.inference.shared.placement import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSettings:
    """The servers that deployments with `serving.shared` are served by, for each project."""

    cpu_milli: int = 1000
    memory_bytes: int = 2 << 30
    """Of one server; what it does not need itself is for models."""
    limits: Limits = field(default_factory=Limits)
