"""Puts the auth service together from a store and a configuration."""

import asyncio
from datetime import timedelta
from pathlib import Path

from chassis.app import App
from chassis.credentials import Credentials
from chassis.kv import KV
from chassis.paging import Pager
from chassis.requests import Requests
from lepton.auth.v1 import access_service_pb2_grpc as access_grpc
from lepton.auth.v1 import audit_service_pb2_grpc as audit_grpc
from lepton.auth.v1 import directory_service_pb2_grpc as directory_grpc
from lepton.auth.v1 import encryption_service_pb2_grpc as encryption_grpc
from lepton.auth.v1 import federation_service_pb2_grpc as federation_grpc
from lepton.auth.v1 import identity_service_pb2_grpc as identity_grpc
from lepton.auth.v1 import limit_service_pb2_grpc as limit_grpc
from lepton.auth.v1 import secret_service_pb2_grpc as secret_grpc
from lepton.auth.v1 import session_service_pb2_grpc as session_grpc
from lepton.internal.v1 import audit_feed_pb2_grpc as feed_grpc
from lepton.internal.v1 import policy_feed_pb2_grpc as policy_grpc
from lepton.internal.v1 import project_keys_pb2_grpc as project_keys_grpc
from lepton.internal.v1 import secrets_pb2_grpc as secrets_grpc
from services.auth import layout
from services.auth.access_revoking import AccessRevoking
from services.auth.api_keys import ApiKeys
from services.auth.audit import HEAD_KEY, SERVICE, AuditTrail
from services.auth.audit_log.check import AuditCheck
from services.auth.audit_log.export import AuditExport
from services.auth.audit_log.feed import AuditFeed, OwnSink
from services.auth.audit_log.keys import AuditKeys
from services.auth.audit_log.query import AuditQuery
from services.auth.audit_log.sealer import Sealer
from services.auth.authorities import Authorities
from services.auth.bindings import Bindings
from services.auth.bootstrap import write_bundle
from services.auth.compliance.serving import compliance_services
from services.auth.config import AuthConfig
from services.auth.custom_roles import CustomRoles
from services.auth.identities import OWN_PATH, Identities, LocalIssuer
from services.auth.join_tokens import JoinTokens
from services.auth.kek import Kek
from services.auth.key_providers import key_provider
from services.auth.keys import KeyRing
from services.auth.limits import Limits
from services.auth.oidc.federation import Federation
from services.auth.oidc.group_roles import GroupRoles
from services.auth.oidc.identities import UserIdentities
from services.auth.oidc.providers import Providers
from services.auth.oidc.sign_in import OidcSignIn
from services.auth.oidc.trusts import WorkloadTrusts
from services.auth.passwords import Passwords
from services.auth.policy import Policy
from services.auth.project_encryption import ProjectEncryption
from services.auth.project_keys import ProjectKeys
from services.auth.projects import Projects
from services.auth.revocations import Revocations
from services.auth.secret_delivery import SecretDelivery, SliceSecrets, no_scheduler
from services.auth.secrets import Secrets
from services.auth.service_accounts import ServiceAccounts
from services.auth.servicers.access import AccessServicer
from services.auth.servicers.audit import AuditFeedServicer, AuditServicer
from services.auth.servicers.directory import DirectoryServicer
from services.auth.servicers.encryption import (
    EncryptionServicer,
    ProjectKeyServicer,
    Runs,
    asks_scheduler,
    knows_no_scheduler,
)
from services.auth.servicers.federation import FederationServicer
from services.auth.servicers.identity import IdentityServicer
from services.auth.servicers.limits import LimitServicer
from services.auth.servicers.policy_feed import PolicyFeedServicer
from services.auth.servicers.secrets import SecretDeliveryServicer, SecretServicer
from services.auth.servicers.session import SessionServicer
from services.auth.sessions import Sessions
from services.auth.sign_ins import SignIns
from services.auth.signing_keys import SigningKeys
from services.auth.store import Store
from services.auth.throttle import Throttle
from services.auth.tokens import AccessTokens
from services.auth.users import Users


async def assemble(config: AuthConfig, app: App, kv: KV, kek: Kek) -> None:
    """Register everything that auth serves and runs with the app."""
    clock, access = app.clock, app.access
    audit = AuditTrail(kv, clock, kek.derive(HEAD_KEY))
    certificate_life = timedelta(seconds=config.lifetimes.certificate_s)
    authorities = Authorities(kv, kek, audit, clock, certificate_life)
    if not await authorities.load():
        raise LookupError("the store is empty: run `python -m services.auth init --config FILE.toml` first")

    requests = Requests(kv, layout.REQUESTS, clock=clock, digest_key=kek.derive("requests"))
    pager = Pager(kv, kek.derive("pages"))
    store = Store(kv, audit, requests, pager, clock)
    policy = Policy(kv, access, issuer=config.issuer, audience=config.audience, clock=clock)
    await policy.start()
    app.loop("policy", policy.run)

    join_tokens = JoinTokens(kv, audit, clock)
    serving_life = timedelta(seconds=config.lifetimes.serving_certificate_s)
    identities = Identities(authorities, join_tokens, certificate_life, serving_life)
    _forget_foreign_certificate(Path(config.identity.state_dir), authorities)
    await app.join_mesh(issuer=LocalIssuer(identities), join_token=OWN_PATH, follows_policy=False)

    async def trust_anew() -> None:
        """Whoever verifies us, and whom we verify, by the roots of now."""
        await asyncio.to_thread(write_bundle, Path(config.identity.trust_bundle), authorities.trust_bundle_pem)
        await app.identity.renew()

    await asyncio.to_thread(write_bundle, Path(config.identity.trust_bundle), authorities.trust_bundle_pem)
    authorities.on_change(trust_anew)
    app.loop("authorities", authorities.run)

    audit_keys = AuditKeys(kv, kek, audit, clock, timedelta(days=config.audit_log.key_days))
    await audit_keys.refresh()
    feed = AuditFeed(kv, audit, clock)
    sealing = config.audit_log.sealing
    sealer = Sealer(kv, audit_keys, audit, clock, sealing, lambda: policy.compliance.audit_keep(sealing.keep))
    app.loop("seal the audit log", sealer.run)
    await app.audit(OwnSink(feed, SERVICE))

    wrapping = key_provider(config.project_keys, kek)
    project_keys = ProjectKeys(kv, wrapping, audit, clock)
    settled = timedelta(seconds=config.project_keys.retire_after_s)
    encryption = ProjectEncryption(project_keys, wrapping, clock, settled)
    app.loop("wrap project keys", lambda: encryption.rewrap_for_ever(config.project_keys.rewrap_every_s))

    access_lifetime = timedelta(seconds=config.lifetimes.access_token_s)
    key_ring = KeyRing(kek, clock)
    tokens = AccessTokens(
        lambda: key_ring.signing_key(policy.signing_keys),
        issuer=config.issuer,
        audience=config.audience,
        lifetime=access_lifetime,
        clock=clock,
    )
    revocations = Revocations(kv, access_lifetime, certificate_life)
    passwords, api_keys = Passwords(memory_kib=config.password_memory_kib), ApiKeys(store, kek.derive("api keys"))
    sessions = Sessions(
        store,
        policy=policy,
        tokens=tokens,
        passwords=passwords,
        api_keys=api_keys,
        revocations=revocations,
        refresh_key=kek.derive("refresh tokens"),
        lifetime=timedelta(seconds=config.lifetimes.session_s),
    )
    providers = Providers(config.oidc, clock)
    user_identities = UserIdentities(store, providers, revocations, policy)
    trusts = WorkloadTrusts(store, providers)
    federation = Federation(store, user_identities, GroupRoles(kv, clock), policy)
    oidc = OidcSignIn(store, providers, federation, trusts, sessions)
    sign_ins = SignIns(sessions, oidc, Throttle(clock, config.throttle))
    directory = DirectoryServicer(
        projects=Projects(store, policy, project_keys),
        users=Users(store, passwords, revocations, policy),
        service_accounts=ServiceAccounts(store),
        api_keys=api_keys,
        access=access,
    )
    identity = IdentityServicer(identities, authorities, join_tokens, access)
    secrets = Secrets(store, project_keys)
    delivery = SecretDelivery(kv, secrets, _slice_secrets(config, app), audit, clock)
    signing_keys = SigningKeys(store, policy, kek, key_ring, access_lifetime)
    revoking = AccessRevoking(store, revocations, policy)
    access_servicer = AccessServicer(Bindings(store, policy), CustomRoles(store, policy), policy, access, clock)
    app.serve(
        (
            session_grpc.add_SessionServiceServicer_to_server,
            SessionServicer(sign_ins, sessions, policy, revoking, signing_keys),
        ),
        (
            federation_grpc.add_FederationServiceServicer_to_server,
            FederationServicer(providers, user_identities, trusts),
        ),
        (directory_grpc.add_DirectoryServiceServicer_to_server, directory),
        (access_grpc.add_AccessServiceServicer_to_server, access_servicer),
        (limit_grpc.add_LimitServiceServicer_to_server, LimitServicer(Limits(store, policy))),
        (identity_grpc.add_IdentityServiceServicer_to_server, identity),
        (audit_grpc.add_AuditServiceServicer_to_server, _audit_servicer(kv, audit_keys, audit, pager)),
        (feed_grpc.add_AuditFeedServiceServicer_to_server, AuditFeedServicer(feed)),
        (encryption_grpc.add_EncryptionServiceServicer_to_server, EncryptionServicer(encryption)),
        (
            project_keys_grpc.add_ProjectKeyServiceServicer_to_server,
            ProjectKeyServicer(project_keys, encryption, _node_projects(config, app)),
        ),
        (secret_grpc.add_SecretServiceServicer_to_server, SecretServicer(secrets)),
        (secrets_grpc.add_SecretDeliveryServiceServicer_to_server, SecretDeliveryServicer(delivery)),
        (policy_grpc.add_PolicyFeedServiceServicer_to_server, PolicyFeedServicer(policy)),
        *compliance_services(store, policy, pager, access),
    )


def _node_projects(config: AuthConfig, app: App) -> Runs:
    if "scheduler" not in config.peers:
        return knows_no_scheduler
    return asks_scheduler(project_keys_grpc.NodeProjectServiceStub(app.peers.channel("scheduler")))


def _slice_secrets(config: AuthConfig, app: App) -> SliceSecrets:
    if "scheduler" not in config.peers:
        return no_scheduler
    return secrets_grpc.SliceSecretsServiceStub(app.peers.channel("scheduler")).GetSliceSecrets


def _audit_servicer(kv: KV, keys: AuditKeys, trail: AuditTrail, pager: Pager) -> AuditServicer:
    check = AuditCheck(kv, keys, trail)
    return AuditServicer(AuditQuery(kv, pager), check, AuditExport(kv, keys, check), keys)


def _forget_foreign_certificate(folder: Path, authorities: Authorities) -> None:
    """Drop a kept certificate of another authority: the store was made anew, and nobody would trust it.

    One that was issued before the roots have changed is dropped too: auth makes itself another.
    """
    kept = Credentials.load(folder)
    if kept is not None and kept.bundle_pem.strip() != authorities.trust_bundle_pem.encode().strip():
        (folder / "identity.pem").unlink()
