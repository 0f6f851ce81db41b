"""Starts the auth service, or prepares and mends it.

init             makes the mesh's authority, the first administrator and the keyring, once
join-token       admits services or nodes to the mesh: a token a line, one for each --spiffe
audit-repair     sets aside what does not hold in the audit log
keyring-list     the keys that wrap the keys of projects, the one that wraps now first
keyring-add      another key wraps from now on; auth wraps all keys of projects by it, while it runs
keyring-retire   removes a key (--key) that wraps nothing any more; do it after a project was shredded, so that older
                 copies of the store are of no use either
"""

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
from chassis.kv import KV, KVError
from lepton.errors import LeptonError
from services.auth.assembly import assemble
from services.auth.audit import HEAD_KEY, AuditTrail
from services.auth.audit_log.repair import repair
from services.auth.bootstrap import init
from services.auth.config import AuthConfig, load
from services.auth.join_tokens import LIFETIME, JoinTokens
from services.auth.kek import Kek, KekError
from services.auth.keyring import add_key, check_keyring, names, retire_key, used_keys

COMMANDS: Final = ("init", "join-token", "audit-repair", "keyring-list", "keyring-add", "keyring-retire")


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
        if arguments.command.startswith("keyring-"):
            print(await _keyring(arguments, config, kv))
            return
        trail = AuditTrail(kv, clock, Kek.load(config.kek_file).derive(HEAD_KEY))
        if arguments.command == "audit-repair":
            print(await repair(kv, trail))
            return
        tokens = JoinTokens(kv, trail, clock)
        for path in arguments.spiffe:
            made = await tokens.create(
                path, timedelta(seconds=arguments.ttl), actor="local/join-token", action="join-token"
            )
            print(made.token)


async def _keyring(arguments: argparse.Namespace, config: AuthConfig, kv: KV) -> str:
    path = check_keyring(config.project_keys.keyring)
    if arguments.command == "keyring-add":
        return add_key(path)
    if arguments.command == "keyring-retire":
        retire_key(path, arguments.key, await used_keys(kv))
    return "\n".join(names(path))


def main() -> None:
    """Choose by the first argument; without one, serve."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        run(AuthConfig, build)
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m services.auth", description=__doc__, formatter_class=form)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--config", required=True, type=Path, help="TOML file")
    parser.add_argument("--spiffe", nargs="+", default=[""], help="paths of SPIFFE ids: service/<name> or agent/<node>")
    parser.add_argument("--key", default="", help="name of a key, as keyring-list shows it")
    parser.add_argument("--ttl", type=int, default=int(LIFETIME.total_seconds()), help="seconds")
    try:
        asyncio.run(prepare(parser.parse_args()))
    except (ConfigError, KekError, KVError, LeptonError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None


if __name__ == "__main__":
    main()
