"""The first start: makes the CA, the signing key and the first administrator, all in one transaction."""

import secrets
from pathlib import Path
from typing import Final

from chassis.clock import Clock
from chassis.kv import KV, Put, absent
from lepton.auth.v1.principal_pb2 import User
from lepton.auth.v1.role_binding_pb2 import RoleBinding
from lepton.internal.v1 import credentials_pb2
from lepton.names import OrganisationRoleBindingName, UserName
from services.auth import keys, layout
from services.auth.audit import HEAD_KEY, AuditTrail, Deed
from services.auth.authority_record import load_roots, roots_put
from services.auth.ca import Authority
from services.auth.config import AuthConfig
from services.auth.kek import Kek, write_secret
from services.auth.keyring import create_keyring
from services.auth.passwords import Passwords
from services.auth.roots import Roots
from services.auth.store import stamp

ADMIN: Final = UserName("admin")
BINDING: Final = OrganisationRoleBindingName("bootstrap-admin")
ACTOR: Final = "local/init"
_PASSWORD_BYTES: Final = 24


async def init(config: AuthConfig, kv: KV, clock: Clock) -> bool:
    """Make what is missing and say whether the store was new. Whatever an earlier run made stays as it is."""
    kek = Kek.load_or_create(config.kek_file)
    if config.project_keys.keyring is not None:
        create_keyring(config.project_keys.keyring)
    is_new = False
    roots = await load_roots(kv, kek, clock)
    if roots is None:
        write_secret(config.bootstrap_password_file, secrets.token_urlsafe(_PASSWORD_BYTES))
        password = config.bootstrap_password_file.read_text().strip()
        hashed = await Passwords(memory_kib=config.password_memory_kib).hash(password)
        is_new = await _create(kv, kek, hashed, clock)
        roots = await load_roots(kv, kek, clock)
        assert roots is not None
    write_bundle(Path(config.identity.trust_bundle), roots.bundle_pem(clock.now()))
    return is_new


async def _create(kv: KV, kek: Kek, hashed: str, clock: Clock) -> bool:
    """False when another process was first."""
    user, binding = User(display_name="Administrator"), RoleBinding(role="roles/admin", members=[str(ADMIN)])
    stamp(user, ADMIN, clock)
    stamp(binding, BINDING, clock)
    password = credentials_pb2.PasswordRecord(hash=hashed, create_time=user.create_time)
    signing_key = keys.new_key(kek, clock)
    done = await AuditTrail(kv, clock, kek.derive(HEAD_KEY)).commit(
        Deed(resource=str(ADMIN), actor=ACTOR, action="init"),
        [absent(layout.AUTHORITY)],
        [
            roots_put(Roots(first=Authority.create(clock)), kek),
            Put(layout.signing_key(signing_key.kid), signing_key.SerializeToString()),
            Put(layout.user(ADMIN), user.SerializeToString()),
            Put(layout.password(ADMIN), password.SerializeToString()),
            Put(layout.binding(BINDING), binding.SerializeToString()),
        ],
    )
    return done.succeeded


def write_bundle(path: Path, pem: str) -> None:
    """Hands out the roots to trust, as a file; replaced at once."""
    if path.exists() and path.read_text() == pem:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    draft.write_text(pem)
    draft.rename(path)
