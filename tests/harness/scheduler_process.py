"""Real scheduler processes, `python -m services.scheduler` with a configuration, to be killed, stopped and resumed."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import tomli_w

from tests.harness.pki import Authority
from tests.harness.ports import free_ports
from tests.harness.wait import until

FAST: Final[Mapping[str, Any]] = {"ttl_s": 3, "renew_deadline_s": 2.0, "retry_s": 0.5}


class SchedulerProcess:
    """One replica. `module` is what is run in place of the scheduler's own, to break it on purpose."""

    def __init__(
        self,
        name: str,
        folder: Path,
        etcd: list[str],
        authority: Authority,
        *,
        leader: Mapping[str, Any] = FAST,
        module: str = "services.scheduler",
        variables: Mapping[str, str] | None = None,
        telemetry: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.mesh = f"127.0.0.1:{free_ports(1)[0]}"
        self.log_file = folder / f"{name}.log"
        self._module, self._variables = module, dict(variables or {})
        self._ports, self._config = folder / f"{name}.ports.json", folder / f"{name}.toml"
        state, bundle = folder / name, folder / "ca.pem"
        authority.issue("service/scheduler").save(state)
        bundle.write_bytes(authority.bundle_pem)
        settings = {
            "replica_id": name,
            "etcd_endpoints": etcd,
            "listen": {"mesh": self.mesh, "ports_file": str(self._ports)},
            "identity": {"state_dir": str(state), "trust_bundle": str(bundle), "auth_address": "127.0.0.1:1"},
            "peers": {"auth": "127.0.0.1:1"},
            "nodes": {"ttl_s": 6.0},
            "leader": dict(leader),
            "limits": {"rate_per_s": 0.0},
            "telemetry": {"log_form": "console", **(telemetry or {})},
        }
        self._config.write_text(tomli_w.dumps(settings))
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def is_stopped(self) -> bool:
        """Whether it stands still after SIGSTOP."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    @property
    def log(self) -> str:
        """What it has logged."""
        return self.log_file.read_text()

    async def start(self) -> Self:
        """Start it and wait until it serves."""
        self._ports.unlink(missing_ok=True)
        with self.log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", self._module, "--config", str(self._config)),
                env={**os.environ, **self._variables},
                stderr=log,
            )
        await until(self._ports.exists, 60)
        return self

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.is_running:
            self.signal(signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()
