"""The artifact store of a running stack, opened with a project's own keys, as who holds all secrets of auth could."""

from chassis.clock import SystemClock
from chassis.etcd import EtcdKV
from deploy.local.home import Home
from lepton.artifacts import ArtifactStore, Cipher, KeyFile
from services.auth.audit import HEAD_KEY, AuditTrail
from services.auth.config import load
from services.auth.kek import Kek
from services.auth.key_providers import key_provider
from services.auth.project_keys import ProjectKeys, Purpose


async def project_keys_of(home: Home, project: str) -> dict[str, bytes]:
    """The keys of a project's artifacts, straight from auth's store."""
    config, clock = load(home.config("auth")), SystemClock()
    kek = Kek.load(config.kek_file)
    async with EtcdKV(config.etcd.endpoints, config.etcd.tls, clock) as kv:
        trail = AuditTrail(kv, clock, kek.derive(HEAD_KEY))
        keys = ProjectKeys(kv, key_provider(config.project_keys, kek), trail, clock)
        return {each.key_id: each.key for each in await keys.keys(project, Purpose.ARTIFACTS)}


async def sealed_store(home: Home, project: str) -> ArtifactStore:
    """The store, for one project."""
    return ArtifactStore(home.artifacts.as_uri(), Cipher(KeyFile.of(await project_keys_of(home, project))))
