"""Starts the auth service, or prepares and mends it: `init`, `join-token` and `audit-repair`."""

import argparse
import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from typing import Final

from chassis.app import App, run
from chassis.clock import SystemClock
from chassis.config import ConfigError
from chassis.etcd import EtcdKV
from chassis.kv import KVError
from lepton.errors import LeptonError
from services.auth.assembly import assemble
from services.auth.audit import HEAD_KEY, AuditTrail
from services.auth.audit_log.repair import repair
from services.auth.bootstrap import init
from services.auth.config import AuthConfig, load
from services.auth.join_tokens import LIFETIME, JoinTokens
from services.auth.kek import Kek, KekError

COMMANDS: Final = ("init", "join-token", "audit-repair")


async def build(config: AuthConfig, app: App) -> None:
    """The service."""
    kv = await app.enter(EtcdKV(config.etcd.endpoints, config.etcd.tls, app.clock))
    await assemble(config, app, kv, Kek.load(config.kek_file))


async def prepare(arguments: argparse.Namespace) -> None:
    """What is done beside serving, straight on the store."""
    config, clock = load(arguments.config), SystemClock()
    async with EtcdKV(config.etcd.endpoints, config.etcd.tls, clock) as kv:
        if arguments.command == "init":
            print("initialised" if await init(config, kv, clock) else "already initialised")
            return
        trail = AuditTrail(kv, clock, Kek.load(config.kek_file).derive(HEAD_KEY))
        if arguments.command == "audit-repair":
            print(await repair(kv, trail))
            return
        tokens = JoinTokens(kv, trail, clock)
        made = await tokens.create(
            arguments.spiffe, timedelta(seconds=arguments.ttl), actor="local/join-token", action="join-token"
        )
        print(made.token)


def main() -> None:
    """Choose by the first argument; without one, serve."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        run(AuthConfig, build)
    parser = argparse.ArgumentParser(prog="python -m services.auth", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--config", required=True, type=Path, help="TOML file")
    parser.add_argument("--spiffe", default="", help="path of the SPIFFE id: service/<name> or agent/<node>")
    parser.add_argument("--ttl", type=int, default=int(LIFETIME.total_seconds()), help="seconds")
    try:
        asyncio.run(prepare(parser.parse_args()))
    except (ConfigError, KekError, KVError, LeptonError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None


if __name__ == "__main__":
    main()
