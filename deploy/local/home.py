"""Where a one-machine stack keeps its state: one directory, `LEPTON_HOME`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

CHECKOUT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Home:
    """The state directory and the names of what lies in it."""

    root: Path

    @classmethod
    def from_environment(cls) -> Self:
        """`LEPTON_HOME`, else `.lepton/` in the checkout."""
        named = os.environ.get("LEPTON_HOME")
        return cls(Path(named).resolve() if named else CHECKOUT / ".lepton")

    @property
    def stack_file(self) -> Path:
        """What the supervisor says of itself and its processes."""
        return self.root / "stack.json"

    @property
    def ports_file(self) -> Path:
        """The ports that this stack listens on, kept over restarts."""
        return self.root / "ports.json"

    @property
    def profile_file(self) -> Path:
        """How clients reach this stack."""
        return self.root / "profile.toml"

    @property
    def trust_bundle(self) -> Path:
        """The mesh authority's certificate."""
        return self.root / "ca.pem"

    @property
    def admin_password(self) -> Path:
        """The password of `users/admin`."""
        return self.root / "secrets" / "admin-password"

    @property
    def etcd_certificates(self) -> Path:
        """Who may speak to etcd."""
        return self.root / "secrets" / "etcd"

    @property
    def artifacts(self) -> Path:
        """The content-addressed store."""
        return self.root / "artifacts"

    def log(self, component: str) -> Path:
        """What a process of the stack prints."""
        return self.root / "logs" / f"{component}.log"

    def config(self, component: str) -> Path:
        """The settings of a process of the stack."""
        return self.root / "config" / f"{component}.toml"

    def state(self, component: str) -> Path:
        """What a process of the stack keeps for itself."""
        return self.root / "state" / component

    def create(self) -> None:
        """Makes the directory and its folders; only their owner may read them."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in ("logs", "config", "state", "secrets", "artifacts"):
            (self.root / folder).mkdir(exist_ok=True, mode=0o700)
