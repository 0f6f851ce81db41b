"""Marks deployments that were called while they slept, so that whoever leads wakes them, be it after a restart."""

from typing import Final

from chassis.kv import KV, KVError, Put, absent, present
from chassis.logs import logger
from lepton.names import DeploymentName
from services.inference.autoscaling.keys import wake_key
from services.inference.store import deployment_key

log = logger(__name__)
_MARK: Final = b"called"


class DurableWaker:
    """Writes the mark where all candidates for leadership see it."""

    def __init__(self, kv: KV) -> None:
        self._kv = kv

    async def wake(self, deployment: str) -> bool:
        """Marks a deployment that exists, once; True when it is marked. A store that does not answer: False."""
        name = DeploymentName.parse(deployment)
        guard = [present(deployment_key(name)), absent(wake_key(name))]
        try:
            await self._kv.txn(guard, [Put(wake_key(name), _MARK)])
        except KVError as error:
            log.warning("not marked to be woken", deployment=deployment, error=str(error))
            return False
        return True
