"""The life of a service: settings, logs, telemetry, build, serve, drain."""

import argparse
import asyncio
import gc
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from chassis import config as settings
from chassis import logs, telemetry
from chassis.access import PolicyReplica
from chassis.audit.auditor import Auditor
from chassis.audit.shipper import FeedSink, Sink
from chassis.audit.spool import Spool
from chassis.clock import Clock, SystemClock
from chassis.clock_skew import ClockSkew
from chassis.collector_roots import collector_roots, keep_roots
from chassis.config import ServiceConfig
from chassis.identity import Identity, IdentityError, Issuer
from chassis.issuer import AuthIssuer
from chassis.logs import logger
from chassis.middleware.rate_limit import RateLimits
from chassis.peers import Peers
from chassis.policy_feed import follow_policy
from chassis.rates import Rate, rates_with
from chassis.rpc_metrics import RpcMetrics
from chassis.server import Listener, Registration, Server
from chassis.stack import stack

log = logger(__name__)

Config = TypeVar("Config", bound=ServiceConfig)
T = TypeVar("T")
Loop = Callable[[], Coroutine[Any, Any, None]]


class App:
    """What a service is made of while it runs: dependencies, background loops, the server."""

    def __init__(self, config: ServiceConfig, resources: AsyncExitStack, clock: Clock) -> None:
        self.config = config
        self.clock = clock
        self.access = PolicyReplica(clock)
        self.metrics = RpcMetrics()
        self.server: Server | None = None
        self._resources = resources
        self._registrations: list[Registration] = []
        self._loops: list[tuple[str, Loop]] = []
        self._tasks: asyncio.TaskGroup | None = None
        self._running: list[asyncio.Task[None]] = []
        self._identity: Identity | None = None
        self._peers: Peers | None = None
        self._auditor: Auditor | None = None

    async def enter(self, resource: AbstractAsyncContextManager[T] | AbstractContextManager[T]) -> T:
        """Open a dependency; it is closed after the server and the loops, in the reverse order."""
        if isinstance(resource, AbstractAsyncContextManager):
            return await self._resources.enter_async_context(resource)
        return self._resources.enter_context(resource)

    def loop(self, name: str, run: Loop) -> None:
        """Run this in the background; when it fails, the process ends with an error."""
        self._loops.append((name, run))
        if self._tasks is not None:
            self._start_loop(name, run)

    def serve(self, *registrations: Registration) -> None:
        """Serve these: pairs of generated `add_XServicer_to_server` and the servicer."""
        self._registrations.extend(registrations)

    @property
    def identity(self) -> Identity:
        """This service in the mesh; after `join_mesh`."""
        if self._identity is None:
            raise RuntimeError("call `await app.join_mesh()` before using the identity")
        return self._identity

    @property
    def peers(self) -> Peers:
        """Channels to the other services; after `join_mesh`."""
        if self._peers is None:
            raise RuntimeError("call `await app.join_mesh()` before using peers")
        return self._peers

    async def join_mesh(
        self, *, issuer: Issuer | None = None, join_token: str | None = None, follows_policy: bool = True
    ) -> None:
        """Get an identity, open the channels, follow the policy. Auth passes its own issuer and feeds `access`."""
        wanted = self.config.identity
        token = _join_token(wanted) if join_token is None else join_token
        hosts = tuple(dict.fromkeys(("localhost", "127.0.0.1", self.config.service, *wanted.hosts)))
        self._identity = await Identity.obtain(
            issuer=issuer or _auth_issuer(self.config),
            join_token=token,
            hosts=hosts,
            folder=Path(wanted.state_dir),
            clock=self.clock,
        )
        roots = collector_roots(self.config.telemetry, wanted)
        if roots is not None and not self.config.telemetry.otlp_certificate:
            keep_roots(roots, self._identity)
        self._peers = await self.enter(Peers(self.config.peers, self._identity))
        self.loop("identity", self._identity.renew_forever)
        self.loop("end windows of grants", self.access.end_windows)
        if follows_policy:
            channel = self._peers.channel("auth")
            skew = ClockSkew("auth", self.clock)
            self.loop("policy", lambda: self.access.follow_forever(lambda: follow_policy(channel, skew)))
            await self.audit(FeedSink(channel))

    async def audit(self, sink: Sink) -> None:
        """Record what is served from now on; done by `join_mesh` for all but auth, which keeps the log itself."""
        wanted = self.config.audit
        folder = Path(wanted.spool_dir) if wanted.spool_dir else Path(self.config.identity.state_dir) / "audit"
        spool = await self.enter(Spool(folder, wanted.spool_bytes))
        self._auditor = Auditor(spool, sink, self.access, self.clock, wanted)
        self.loop("audit", self._auditor.run)

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve and run the loops until told to stop."""
        server = self.server = self._server() if self._registrations else None
        async with asyncio.TaskGroup() as self._tasks:
            for name, run in self._loops:
                self._start_loop(name, run)
            if server is not None:
                await server.start()
                _write_ports(self.config.listen.ports_file, server.ports)
            try:
                await stopping.wait()
            finally:
                if server is not None:
                    await server.drain(self.config.limits.drain_s)
                for task in self._running:
                    task.cancel()

    def _server(self) -> Server:
        listen, limits = self.config.listen, self.config.limits
        listeners = [
            Listener(name=name, address=address, credentials=self.identity.server_credentials(require_client=mutual))
            for name, address, mutual in (("client", listen.client, False), ("mesh", listen.mesh, True))
            if address
        ]
        return Server(
            self.config.service,
            self._registrations,
            listeners=listeners,
            middleware=stack(
                self.access,
                self.metrics,
                access_log=self.config.telemetry.access_log,
                limits=_rate_limits(limits),
                auditor=self._auditor,
            ),
            metrics=self.metrics,
            admin_address=listen.admin,
            metrics_address=listen.metrics,
        )

    def _start_loop(self, name: str, run: Loop) -> None:
        assert self._tasks is not None
        self._running.append(self._tasks.create_task(_guarded(name, run), name=name))


def run(
    config_type: type[Config],
    build: Callable[[Config, App], Awaitable[None]],
    argv: Sequence[str] | None = None,
    *,
    clock: Clock | None = None,
    starts_processes: bool = False,
) -> None:
    """Run a service: `python -m services.<name> --config FILE.toml`. Ends the process.

    What starts processes runs on the standard loop: uvloop runs Python (the hooks of os.register_at_fork) between fork
    and exec, where any lock that another thread of a gRPC process held at the fork is held for ever.
    """
    parser = argparse.ArgumentParser(description="A service of Lepton.")
    parser.add_argument("--config", required=True, type=Path, help="TOML file")
    arguments = parser.parse_args(argv)
    try:
        config = settings.load(
            config_type, arguments.config, env_prefix=_env_prefix(config_type), environ=dict(os.environ)
        )
    except settings.ConfigError as error:
        raise SystemExit(f"configuration: {error}") from None
    try:
        with asyncio.Runner(loop_factory=loop_factory(starts_processes=starts_processes)) as runner:
            runner.run(serve(config, build, clock or SystemClock()))
    except* (IdentityError, LookupError) as group:
        raise SystemExit("; ".join(str(each) for each in group.exceptions)) from None
    except* asyncio.CancelledError:
        pass
    sys.exit(0)


async def serve(config: Config, build: Callable[[Config, App], Awaitable[None]], clock: Clock) -> None:
    """The whole life of a service with a configuration, until SIGTERM or SIGINT."""
    wanted = config.telemetry
    logs.configure(config.service, level=wanted.log_level, form=wanted.log_form)
    stopping = asyncio.Event()
    building = asyncio.current_task()
    assert building is not None
    is_built = False

    def stop() -> None:
        stopping.set()
        if not is_built:
            building.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    async with AsyncExitStack() as resources:
        resources.enter_context(
            telemetry.tracing(
                config.service,
                otlp_endpoint=wanted.otlp_endpoint,
                otlp_certificate=collector_roots(wanted, config.identity),
                sample_ratio=wanted.sample_ratio,
            )
        )
        app = App(config, resources, clock)
        await build(config, app)
        is_built = True
        settle_heap()
        await app.run(stopping)
    log.info("stopped")


def settle_heap() -> None:
    """Keep what was loaded at start out of every later garbage collection."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(
        50_000, 20, 100
    )  # what a service makes is mostly freed by counting; a tenth of the scheduler's CPU


async def _guarded(name: str, run: Loop) -> None:
    try:
        await run()
    except Exception as error:
        log.error("loop failed", error=error, loop=name)
        raise


def _rate_limits(limits: settings.Limits) -> RateLimits:
    return RateLimits(
        caller=Rate(per_s=limits.rate_per_s, burst=limits.burst),
        project=Rate(per_s=limits.project_rate_per_s, burst=limits.project_burst),
        methods=rates_with(limits.rates),
        caller_streams=limits.streams,
        project_streams=limits.project_streams,
    )


def _auth_issuer(config: ServiceConfig) -> AuthIssuer:
    bundle = Path(config.identity.trust_bundle).read_bytes()
    mesh = config.peers.get("auth", "")
    return AuthIssuer(auth_address=config.identity.auth_address, auth_mesh_address=mesh, trust_bundle_pem=bundle)


def _join_token(wanted: settings.IdentitySettings) -> str:
    if wanted.join_token or not wanted.join_token_file:
        return wanted.join_token
    path = Path(wanted.join_token_file)
    return path.read_text().strip() if path.exists() else ""


def _env_prefix(config_type: type[ServiceConfig]) -> str:
    service = config_type.__dataclass_fields__["service"].default
    if not isinstance(service, str):
        raise TypeError(f"{config_type.__name__} must set `service`")
    return f"LEPTON_{service.upper().replace('-', '_')}_"


def _write_ports(file: str, ports: dict[str, int]) -> None:
    if file:
        path = Path(file)
        aside = path.with_suffix(".tmp")
        aside.write_text(json.dumps(ports))
        aside.rename(path)


def loop_factory(*, starts_processes: bool) -> Callable[[], asyncio.AbstractEventLoop]:
    """The loop of a service: uvloop's where it is installed and starts no processes."""
    if starts_processes:
        return asyncio.new_event_loop
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
