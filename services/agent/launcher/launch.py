"""What the agent asks the launcher to start, and the environment that a rank is allowed to see."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lepton.errors import InvalidArgument
from services.agent.confinement import Confinement

# What a rank and the launcher may take over from the agent; the agent's credentials and settings are not in it.
INHERITED: Final = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE")
# What the launcher needs beyond that to be the same Python as the agent.
INTERPRETER: Final = ("PYTHONPATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
# One thread per library, or the launcher could not be forked safely; a rank's own OMP_NUM_THREADS raises torch's again.
SINGLE_THREADED: Final = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# What would let a job run code of its own in other programs that the rank starts, before their first line.
_FORBIDDEN_PREFIXES: Final = ("LD_", "DYLD_", "PYTHON", "BASH_", "GLIBC_", "GCONV_")
_FORBIDDEN: Final = ("ENV", "IFS", "PS4", "SHELLOPTS", "PROMPT_COMMAND", "PERL5OPT", "RUBYOPT", "NODE_OPTIONS")


@dataclass(frozen=True, slots=True, kw_only=True)
class RankLaunch:
    """One rank to start: `entry` is a module, as for `python -m`, or a script's path; there is never a shell."""

    rank_id: str
    entry: str
    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path = Path("/")
    confinement: Confinement = field(default_factory=Confinement)
    # More variables, whose values nobody else may hold: not even the launcher, of which every other rank is a copy.
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


def launcher_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of the launcher's own process."""
    taken = {name: inherited[name] for name in (*INHERITED, *INTERPRETER) if name in inherited}
    return {**taken, **SINGLE_THREADED, "PYTHONUNBUFFERED": "1"}


def rank_environment(inherited: Mapping[str, str], explicit: Mapping[str, str]) -> dict[str, str]:
    """The exact environment of a rank: what it may inherit, and what the agent sets for it."""
    for name, value in explicit.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise InvalidArgument("INVALID_FIELD", fields={f"env.{name!r}": "is not an environment variable"})
        if name in _FORBIDDEN or name.startswith(_FORBIDDEN_PREFIXES):
            raise InvalidArgument("INVALID_FIELD", fields={f"env.{name}": "may not be set for a rank; leave it out"})
    return {**{name: inherited[name] for name in INHERITED if name in inherited}, **explicit}
