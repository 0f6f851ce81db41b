"""What people see of a project's keys, and what they and the background do with them."""

from collections.abc import Sequence
from datetime import timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from chassis.clock import Clock
from chassis.kv import KVError
from chassis.logs import logger
from lepton.artifacts.keys import RotatingKeyProvider
from lepton.auth.v1.encryption_service_pb2 import ProjectEncryption as Encryption
from lepton.errors import FailedPrecondition, LeptonError
from lepton.internal.v1.project_keys_pb2 import ProjectKeyRecord
from lepton.names import ProjectName
from services.auth.project_keys import ProjectKeys, Purpose

log = logger(__name__)

MOST_VERSIONS = 50
"""Of one key of a project, at once: each is looked at whenever something is sealed or opened."""
_PURPOSES = {Purpose.DATA: Encryption.Key.DATA, Purpose.ARTIFACTS: Encryption.Key.ARTIFACTS}


class ProjectEncryption:
    """The keys of projects as a resource. `settled` is for how long a former key may still seal after a rotation."""

    def __init__(self, keys: ProjectKeys, provider: RotatingKeyProvider, clock: Clock, settled: timedelta) -> None:
        self._keys, self._provider, self._clock, self._settled = keys, provider, clock, settled

    async def get(self, name: ProjectName) -> Encryption:
        """What is known of a project's keys."""
        found = Encryption(project=str(name), provider_key=self._provider.current)
        for purpose in Purpose:
            found.keys.extend(self._told(purpose, await self._keys.records(name.project, purpose)))
        shredded = await self._keys.shredded(name.project)
        if shredded is not None:
            found.shred_time.CopyFrom(shredded.shred_time)
            found.destroyed_key_ids.extend(shredded.key_ids)
        return found

    async def rotate(self, name: ProjectName) -> Encryption:
        """New keys. Raises FailedPrecondition while too many former ones are still there."""
        for purpose in Purpose:
            if len(await self._keys.records(name.project, purpose)) >= MOST_VERSIONS:
                raise FailedPrecondition("TOO_MANY_KEY_VERSIONS", project=str(name), most=str(MOST_VERSIONS))
        await self._keys.rotate(name.project)
        return await self.get(name)

    async def shred(self, name: ProjectName) -> Encryption:
        """Destroy the keys."""
        await self._keys.shred(name.project)
        return await self.get(name)

    async def rewrapped(self, name: ProjectName, key_id: str, begin: Timestamp) -> Sequence[str]:
        """The artifacts' newest key wraps all of them, as seen since `begin`: destroy those before it; their ids.

        Not before everybody has heard of the newest: until then a former one may still seal what nobody has seen.
        """
        records = await self._keys.records(name.project, Purpose.ARTIFACTS)
        if not records or records[0].key_id != key_id:
            return ()
        if begin.ToDatetime() - records[0].create_time.ToDatetime() < self._settled:
            return ()
        return await self._keys.destroy_before(name.project, Purpose.ARTIFACTS, key_id)

    async def rewrap_for_ever(self, every_s: float) -> None:
        """Wrap what a former key of the provider has wrapped by its current one, whenever there is such."""
        while True:
            try:
                count = await self._keys.rewrap()
                if count:
                    log.info("keys of projects wrapped anew", count=count, provider_key=self._provider.current)
            except (LeptonError, KVError) as error:
                log.warning("keys of projects not wrapped anew; it is tried again", error=error)
            await self._clock.sleep(every_s)

    def _told(self, purpose: Purpose, records: Sequence[ProjectKeyRecord]) -> list[Encryption.Key]:
        return [
            Encryption.Key(
                key_id=each.key_id,
                purpose=_PURPOSES[purpose],
                version=each.version,
                create_time=each.create_time,
                wrap_time=each.wrap_time,
                is_current=self._provider.is_current(each.wrapped),
            )
            for each in records
        ]
