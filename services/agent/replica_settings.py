"""How long a serving replica waits for what, and how much it puts up with."""

from dataclasses import dataclass, field
from pathlib import Path

from services.agent.triton_memory import LeakLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSettings:
    """Deadlines of a replica, and how much failing is too much."""

    start_s: float = 30.0
    load_s: float = 60.0
    golden_s: float = 30.0
    check_interval_s: float = 2.0
    check_s: float = 5.0
    failed_checks: int = 2
    """Checks in a row that must fail before a server that still runs is called hung; a wrong answer counts at once."""
    restarts: int = 5
    restart_window_s: float = 300.0
    stop_s: float = 10.0
    memory_interval_s: float = 5.0
    certificate_interval_s: float = 30.0
    """How often it is looked whether the certificate of a server is still the one to have."""
    leak: LeakLimit = field(default_factory=LeakLimit)
    quiet_s: float = 2.0
    """A server whose successor is ready is stopped once it was asked nothing for so long."""
    leave_s: float = 1.0
    """A server that is to end is told so once it was asked nothing for so long, or half its grace is over."""
    drain_s: float = 60.0
    """The longest that it is waited for."""
    trace_url: str = ""
    """OTLP over HTTP, the whole address of the traces: `https://127.0.0.1:4318/v1/traces`."""
    trace_roots: Path | None = None
    """PEM file of the authorities to trust there; None = those of the system."""
