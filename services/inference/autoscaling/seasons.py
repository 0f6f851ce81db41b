"""What comes every day, for each deployment that wants a forecast: learnt by the leader, stored for the next one."""

import math
from typing import Final

from chassis.kv import KV, Compare, Delete, Put
from lepton.internal.v1.gateway_load_pb2 import LoadSeason
from lepton.names import DeploymentName
from services.inference.autoscaling.forecast import Season
from services.inference.autoscaling.keys import season_key
from services.inference.autoscaling.proposals import Proposal
from services.inference.autoscaling.spec import Spec

_SAVE_EVERY: Final = 15
"""Buckets between two savings: what a leader that dies has learnt since is lost."""


class Seasons:
    """The loads of deployments by bucket of the day. `bucket_s` * `slots` is one season."""

    def __init__(self, kv: KV, *, bucket_s: float, slots: int, lead_s: float) -> None:
        self._kv, self._bucket_s, self._slots, self._lead_s = kv, bucket_s, slots, lead_s
        self._known: dict[str, Season] = {}
        self._current: dict[str, tuple[int, float, int]] = {}
        """The bucket under way: its number, the sum of its samples, and how many they are."""
        self._unsaved: dict[str, int] = {}

    def clear(self) -> None:
        """Another leader may have learnt since."""
        self._known.clear()
        self._current.clear()
        self._unsaved.clear()

    async def learn(self, deployment: str, in_flight: float, wall_s: float, guard: Compare) -> None:
        """One sample of a deployment's load at a time of the wall clock."""
        name = DeploymentName.parse(deployment)
        if deployment not in self._known:
            self._known[deployment] = await self._read(name)
        bucket = int(wall_s // self._bucket_s)
        number, total, count = self._current.get(deployment, (bucket, 0.0, 0))
        if bucket != number and count:
            self._known[deployment] = self._known[deployment].see(number, total / count)
            self._unsaved[deployment] = self._unsaved.get(deployment, 0) + 1
            total, count = 0.0, 0
        self._current[deployment] = bucket, total + in_flight, count + 1
        if self._unsaved.get(deployment, 0) >= _SAVE_EVERY:
            self._unsaved[deployment] = 0
            await self._kv.txn([guard], [Put(season_key(name), _message(self._known[deployment]).SerializeToString())])

    def floor(self, deployment: str, spec: Spec, wall_s: float) -> Proposal:
        """How many replicas the time ahead will ask for, so that they are there by then."""
        season = self._known.get(deployment)
        if season is None or not spec.in_flight:
            return Proposal(count=0, why="")
        bucket = int(wall_s // self._bucket_s)
        expected = season.expect(bucket, bucket + math.ceil(self._lead_s / self._bucket_s))
        count = math.ceil(expected / spec.in_flight - 1e-9)
        return Proposal(
            count=count, why=f"{expected:.3g} calls in flight are expected by now, as at this time of other days"
        )

    async def forget(self, deployment: str, guard: Compare) -> None:
        """The deployment is gone."""
        self._known.pop(deployment, None)
        self._current.pop(deployment, None)
        await self._kv.txn([guard], [Delete(season_key(DeploymentName.parse(deployment)))])

    async def _read(self, name: DeploymentName) -> Season:
        entry = await self._kv.get(season_key(name))
        if entry is None:
            return Season.empty(self._slots)
        stored = LoadSeason.FromString(entry.value)
        if stored.slots != self._slots:
            return Season.empty(self._slots)  # the settings are others now
        return Season(
            slots=stored.slots,
            bucket=stored.bucket,
            seen=stored.seen,
            level=stored.level,
            seasonal=tuple(stored.seasonal),
            variance=stored.variance,
        )


def _message(season: Season) -> LoadSeason:
    return LoadSeason(
        slots=season.slots,
        bucket=season.bucket,
        seen=season.seen,
        level=season.level,
        seasonal=season.seasonal,
        variance=season.variance,
    )
