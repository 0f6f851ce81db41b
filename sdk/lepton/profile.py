"""How a client reaches a Lepton: addresses, whom to trust, and defaults; a TOML file that the stack writes."""

import os
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

import tomli_w

from lepton.errors import FailedPrecondition

FILE: Final = "profile.toml"
CREDENTIALS_FILE: Final = "credentials.json"
DEFAULT_PROJECT: Final = "default"
"""What commands mean on a stack of one's own until a project is chosen."""
_ENDPOINTS: Final = ("auth", "scheduler", "trainer", "inference", "gateway", "traces", "otlp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Where the services of a Lepton answer.

    `auth`, `scheduler`, `trainer`, `inference` and `gateway` are `host:port` of TLS listeners, `traces` and `otlp` are
    URLs of the trace collector.
    """

    auth: str
    scheduler: str
    trainer: str
    inference: str
    gateway: str
    traces: str = ""
    otlp: str = ""
    trust_bundle: Path
    """PEM file of the authorities to trust."""
    project: str = ""
    """The project's id where none is given."""
    folder: Path = Path()
    """Where the profile lies; credentials are kept beside it."""

    @classmethod
    def load(cls, path: Path | None = None, environment: Mapping[str, str] = os.environ) -> Self:
        """The profile in a file: the one given, else `LEPTON_PROFILE`, else the one in the state directory.

        `LEPTON_<ENDPOINT>` and `LEPTON_PROJECT` override single values. Raises FailedPrecondition (PROFILE_MISSING,
        PROFILE_INVALID).
        """
        file = path or _find()
        try:
            document = tomllib.loads(file.read_text())
            endpoints = dict(document["endpoints"])
            for name in _ENDPOINTS:
                endpoints[name] = environment.get(f"LEPTON_{name.upper()}") or endpoints.get(name, "")
            if unknown := set(endpoints) - set(_ENDPOINTS):
                raise ValueError(f"unknown endpoint {min(unknown)!r}")
            trust_bundle = file.parent / document["tls"]["trust_bundle"]
            project = environment.get("LEPTON_PROJECT") or document.get("defaults", {}).get("project", "")
        except FileNotFoundError as error:
            raise FailedPrecondition("PROFILE_MISSING", profile=str(file)) from error
        except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
            raise FailedPrecondition("PROFILE_INVALID", profile=str(file), problem=str(error)) from error
        return cls(**endpoints, trust_bundle=trust_bundle, project=project, folder=file.parent)

    @property
    def credentials_file(self) -> Path:
        """Where those who signed in with this profile are remembered; only its owner may read it."""
        return self.folder / CREDENTIALS_FILE

    def with_project(self, project: str) -> Self:
        """The same profile with another default project."""
        return replace(self, project=project)

    def save(self) -> None:
        """Write the profile where it was read from."""
        write(self.folder / FILE, self)


def home() -> Path:
    """The state directory: `LEPTON_HOME`, else the nearest `.lepton` upwards, else the one in the home folder."""
    named = os.environ.get("LEPTON_HOME")
    if named:
        return Path(named)
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".lepton" / FILE).is_file():
            return folder / ".lepton"
    return Path.home() / ".lepton"


def choose_project(project: str, path: Path | None = None) -> None:
    """Make a project the default in a profile, the one that `Profile.load()` finds unless given; all else stays."""
    file = path or _find()
    write(file, Profile.load(file, environment={}).with_project(project))


def write(path: Path, profile: Profile) -> None:
    """Writes a profile, whole or not at all; a project chosen earlier stays chosen when this one names none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "endpoints": {name: getattr(profile, name) for name in _ENDPOINTS},
        "tls": {"trust_bundle": os.path.relpath(profile.trust_bundle, path.parent)},
        "defaults": {"project": profile.project or chosen_project(path)},
    }
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=".profile-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            tomli_w.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).rename(path)
    except BaseException:
        Path(aside).unlink()
        raise


def chosen_project(path: Path) -> str:
    """The project that a profile names, or nothing."""
    try:
        return str(tomllib.loads(path.read_text())["defaults"]["project"])
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError):
        return ""


def _find() -> Path:
    named = os.environ.get("LEPTON_PROFILE")
    return Path(named) if named else home() / FILE
