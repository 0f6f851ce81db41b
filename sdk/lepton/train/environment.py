"""What a rank learns from its environment: torchrun's contract and what the agent adds to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lepton.errors import FailedPrecondition


@dataclass(frozen=True, slots=True, kw_only=True)
class RankEnvironment:
    """A rank's place in its gang, and where it reads and reports; without an agent all but the place is empty."""

    rank: int
    local_rank: int
    world_size: int
    restart_count: int
    job: str
    project: str
    generation: int
    artifacts: str
    report_fd: int | None
    spec: Path | None
    resume: str
    traceparent: str
    otlp_endpoint: str
    error_file: Path | None
    otlp_certificate: Path | None = None  # PEM file of the authorities that the collector's certificate may be of
    resume_older: tuple[str, ...] = ()  # the checkpoints before `resume`, newest first
    hang_timeout_s: float = 0.0  # after so long without a step the agent ends the rank; 0 = a default of the agent's

    @classmethod
    def parse(cls, environ: Mapping[str, str]) -> Self:
        """The environment that `environ` describes; a process outside any gang is rank 0 of 1."""
        return cls(
            rank=_whole(environ, "RANK", 0),
            local_rank=_whole(environ, "LOCAL_RANK", 0),
            world_size=_whole(environ, "WORLD_SIZE", 1),
            restart_count=_whole(environ, "TORCHELASTIC_RESTART_COUNT", 0),
            job=environ.get("LEPTON_JOB", ""),
            project=environ.get("LEPTON_PROJECT", ""),
            generation=_whole(environ, "LEPTON_GENERATION", 0),
            artifacts=environ.get("LEPTON_ARTIFACTS", ""),
            report_fd=_whole(environ, "LEPTON_REPORT_FD", 0) or None,
            spec=_path(environ, "LEPTON_SPEC"),
            resume=environ.get("LEPTON_RESUME", ""),
            traceparent=environ.get("TRACEPARENT", ""),
            otlp_endpoint=environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
            otlp_certificate=_path(environ, "OTEL_EXPORTER_OTLP_CERTIFICATE"),
            error_file=_path(environ, "TORCHELASTIC_ERROR_FILE"),
            resume_older=tuple(filter(None, environ.get("LEPTON_RESUME_OLDER", "").split(","))),
            hang_timeout_s=_seconds(environ, "LEPTON_HANG_TIMEOUT_S"),
        )

    def read_spec(self) -> bytes:
        """What the rank is to do, of those of Lepton's own programs that are told it in a file."""
        if self.spec is None:
            raise FailedPrecondition("RANK_ENVIRONMENT_INVALID", variable="LEPTON_SPEC", value="")
        return self.spec.read_bytes()


def _path(environ: Mapping[str, str], variable: str) -> Path | None:
    return Path(environ[variable]) if environ.get(variable) else None


def _whole(environ: Mapping[str, str], variable: str, default: int) -> int:
    text = environ.get(variable) or str(default)
    try:
        return int(text)
    except ValueError as error:
        raise FailedPrecondition("RANK_ENVIRONMENT_INVALID", variable=variable, value=text) from error


def _seconds(environ: Mapping[str, str], variable: str) -> float:
    text = environ.get(variable) or "0"
    try:
        return float(text)
    except ValueError as error:
        raise FailedPrecondition("RANK_ENVIRONMENT_INVALID", variable=variable, value=text) from error
