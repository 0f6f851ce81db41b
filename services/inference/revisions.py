"""Revisions of deployments: templates that never change, and what was made of them."""

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from chassis.kv import KV, Compare, Delete, Put, list_all
from chassis.resources import now
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.revision_pb2 import DeploymentRevision
from lepton.names import DeploymentName, DeploymentRevisionName
from services.inference.store import revision_key, revisions, revisions_prefix

TEMPLATE: Final = ("model_version", "pools", "cpu_milli", "memory_bytes", "serving", "pipeline")
"""The fields of a deployment that a revision is made of: whoever changes one of them starts a rollout."""
HISTORY: Final = 10
"""How many revisions without replicas are kept unless the deployment says otherwise."""

Templated = Deployment | DeploymentRevision


def template(source: Templated) -> DeploymentRevision:
    """A revision that has the template of a deployment, or of another revision, and nothing else."""
    made = DeploymentRevision()
    copy_template(source, made)
    return made


def copy_template(source: Templated, target: Templated) -> None:
    """Gives the target the source's template."""
    for field in TEMPLATE:
        target.ClearField(field)
        value = getattr(source, field)
        if field == "pools":
            target.pools.extend(value)
        elif not hasattr(value, "CopyFrom"):
            setattr(target, field, value)
        elif source.HasField(field):  # type: ignore[arg-type]
            getattr(target, field).CopyFrom(value)


def numbered(deployment: Deployment, number: int) -> DeploymentRevisionName:
    """The name of a deployment's revision."""
    name = DeploymentName.parse(deployment.name)
    return DeploymentRevisionName(name.project, name.deployment, str(number))


def number_of(revision: DeploymentRevision) -> int:
    """Its number, from 1."""
    return DeploymentRevisionName.parse(revision.name).number


def revise(deployment: Deployment, live: Iterable[DeploymentRevision]) -> DeploymentRevision | None:
    """Makes the deployment's template its revision; the new one, or None when one that serves is the same."""
    wished, status = template(deployment), deployment.rollout
    running = {target.revision for target in status.targets}
    if status.end_time.ToNanoseconds() and status.candidate_revision:
        running.discard(status.candidate_revision)  # what has ended badly begins anew, as another one
    for each in live:
        if number_of(each) in running and template(each) == wished and each.state != DeploymentRevision.FAILED:
            deployment.revision = number_of(each)
            return None
    stamp = now()
    deployment.latest_revision += 1
    deployment.revision = deployment.latest_revision
    wished.name = str(numbered(deployment, deployment.revision))
    wished.uid = str(uuid.uuid4())
    wished.state = DeploymentRevision.PREPARING
    wished.create_time.CopyFrom(stamp)
    wished.update_time.CopyFrom(stamp)
    return wished


def put(revision: DeploymentRevision) -> Put:
    """Stores a new revision, as part of the transaction that numbers it."""
    return Put(revision_key(DeploymentRevisionName.parse(revision.name)), revision.SerializeToString())


class Revisions:
    """Reads revisions, and keeps what was made of them."""

    def __init__(self, kv: KV) -> None:
        self._kv = kv
        self._revisions = revisions(kv)

    async def all(self, deployment: str) -> dict[int, DeploymentRevision]:
        """A deployment's revisions by number, the newest first."""
        page = await list_all(self._kv, revisions_prefix(DeploymentName.parse(deployment)))
        found = map(self._revisions.of, page.entries)
        return {number_of(each): each for each in found}

    async def change(self, name: str, fields: Mapping[str, object], guard: Compare) -> DeploymentRevision:
        """Sets output fields of a revision (lists replace lists). Raises NotFound, Aborted."""

        def set_fields(revision: DeploymentRevision) -> None:
            for field, value in fields.items():
                if isinstance(value, str | int | bool):
                    setattr(revision, field, value)
                    continue
                revision.ClearField(field)  # type: ignore[arg-type]
                if isinstance(value, Sequence):
                    getattr(revision, field).extend(value)
                else:
                    getattr(revision, field).CopyFrom(value)

        return await self._revisions.change(DeploymentRevisionName.parse(name), set_fields, guard=[guard])

    async def prune(self, deployment: Deployment, known: Mapping[int, DeploymentRevision], guard: Compare) -> None:
        """Deletes the oldest of those without replicas, beyond as many as the deployment keeps."""
        if stale := beyond_history(deployment, known):
            keys = (revision_key(numbered(deployment, number)) for number in stale)
            await self._kv.txn([guard], [Delete(key) for key in keys])


def beyond_history(deployment: Deployment, known: Collection[int]) -> list[int]:
    """The numbers of the revisions that are not kept any longer, the newest first; at most 100 at once."""
    kept = {target.revision for target in deployment.rollout.targets} | {deployment.revision}
    idle = sorted((number for number in known if number not in kept), reverse=True)
    return idle[deployment.revision_history_limit or HISTORY :][:100]
