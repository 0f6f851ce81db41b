"""Quarantine: what a source has touched is taken out of service, now and whenever more of it is registered.

A source (a dataset's digest, most often) is recorded first; from then on whatever goes back to it is registered as
quarantined. Then every version that it has touched gets the cause and a mark, in one transaction each. The marks are
what the gateway follows. Whoever repeats a quarantine that was cut off completes it.
"""

from collections.abc import Callable

from chassis.call import current_call
from chassis.kv import KV, Delete, Entry, Op, Put, list_all
from chassis.logs import logger
from chassis.resources import now
from lepton.errors import InvalidArgument, NotFound
from lepton.inference.v1 import registry_pb2 as pb
from lepton.inference.v1.model_pb2 import ModelVersion, QuarantineCause
from lepton.inference.v1.registry_pb2 import ModelLineage, Taint
from lepton.names import ArtifactName, DeploymentName, ProjectName, VersionName
from services.inference.lineage import graph, is_touched, touched
from services.inference.references import served_marks, served_versions
from services.inference.registry import Registry
from services.inference.store import (
    deployments,
    quarantine_epoch_key,
    quarantine_key,
    quarantined_key,
    quarantines_prefix,
    versions,
)

log = logger(__name__)


class Quarantines:
    """Says what a source has touched, and takes it out of service or lets it back."""

    def __init__(self, kv: KV, registry: Registry) -> None:
        self._kv, self._registry = kv, registry
        self._versions, self._deployments = versions(kv), deployments(kv)

    async def lineage(self, request: pb.GetModelLineageRequest) -> ModelLineage:
        """The graph around a version. Raises NotFound."""
        root = await self._registry.get_version(request.name)
        project = ProjectName(VersionName.parse(root.name).project)
        page = await list_all(self._kv, quarantines_prefix(project))
        quarantined = {QuarantineCause.FromString(entry.value).source for entry in page.entries}
        served = await served_versions(self._kv, project)
        return graph(root, await self._registry.all_versions(project), served, quarantined)

    async def analyze(self, request: pb.AnalyzeTaintRequest) -> Taint:
        """What a source has touched."""
        project = ProjectName.parse(request.parent, "parent")
        return await self._taint(project, _source(project, request.source))

    async def quarantine(self, request: pb.QuarantineModelsRequest, by: str = "") -> Taint:
        """Takes what a source has touched out of service; `by` a rule, when nobody asks for it."""
        project = ProjectName.parse(request.parent, "parent")
        source = _source(project, request.source)
        cause = await self._record(project, source, request.reason, by)

        def add(version: ModelVersion) -> None:
            if is_touched(version, source) and all(each.source != source for each in version.quarantine):
                version.quarantine.append(cause)

        for version in touched(await self._registry.all_versions(project), source):
            name = VersionName.parse(version.name)
            await self._change(name, add, Put(quarantined_key(name), b""))
        await self._tell_deployments(project, source)
        log.warning("models quarantined", project=str(project), source=source)
        return await self._taint(project, source)

    async def release(self, request: pb.ReleaseModelsRequest) -> Taint:
        """Lets what a source has touched back, unless another source has touched it too. Raises NotFound."""
        project = ProjectName.parse(request.parent, "parent")
        source = _source(project, request.source)
        if await self._recorded(project, source) is None:
            raise NotFound("QUARANTINE_NOT_FOUND", source=source)
        for version in touched(await self._registry.all_versions(project), source):
            await self._let_back(version, source)
        # Last: what is cut off before can be repeated, and meanwhile more is quarantined rather than less.
        epoch = Put(quarantine_epoch_key(project), b"")
        await self._kv.txn([], [Delete(quarantine_key(project, source)), epoch])
        for version in touched(await self._registry.all_versions(project), source):  # those registered meanwhile
            await self._let_back(version, source)
        await self._tell_deployments(project, source)
        log.warning("models released", project=str(project), source=source)
        return await self._taint(project, source)

    async def _tell_deployments(self, project: ProjectName, source: str) -> None:
        """Has their leader look at the deployments of what a source has touched: it does when they are written."""
        names = {version.name for version in touched(await self._registry.all_versions(project), source)}
        for deployment, served in (await served_versions(self._kv, project)).items():
            if served & names:
                try:
                    await self._deployments.change(
                        DeploymentName.parse(deployment), lambda _: None, beside=served_marks
                    )
                except NotFound:
                    continue  # it was deleted meanwhile

    async def _let_back(self, version: ModelVersion, source: str) -> None:
        def remove(current: ModelVersion) -> None:
            kept = [cause for cause in current.quarantine if cause.source != source]
            del current.quarantine[:]
            current.quarantine.extend(kept)

        name = VersionName.parse(version.name)
        await self._change(name, remove, Delete(quarantined_key(name)), only_if_free=True)

    async def _change(
        self, name: VersionName, change: Callable[[ModelVersion], None], mark: Op, *, only_if_free: bool = False
    ) -> None:
        def beside(version: ModelVersion) -> list[Op]:
            return [] if only_if_free and version.quarantine else [mark]

        try:
            await self._versions.change(name, change, beside=beside)
        except NotFound:
            return  # it was deleted meanwhile, and its mark with it

    async def _record(self, project: ProjectName, source: str, reason: str, by: str) -> QuarantineCause:
        call = current_call()
        principal = call.principal.name if call is not None and call.principal is not None else by
        if (entry := await self._recorded(project, source)) is not None:
            return QuarantineCause.FromString(entry.value)
        cause = QuarantineCause(source=source, reason=reason, principal=principal, create_time=now())
        epoch = Put(quarantine_epoch_key(project), b"")
        await self._kv.txn([], [Put(quarantine_key(project, source), cause.SerializeToString()), epoch])
        return cause

    async def _recorded(self, project: ProjectName, source: str) -> Entry | None:
        return await self._kv.get(quarantine_key(project, source))

    async def _taint(self, project: ProjectName, source: str) -> Taint:
        found = touched(await self._registry.all_versions(project), source)
        taint = Taint(source=source, versions=found)
        names = {version.name for version in found}
        for deployment, served in sorted((await served_versions(self._kv, project)).items()):
            for version in sorted(served & names):
                serving = await self._deployments.find(DeploymentName.parse(deployment))
                if serving is not None:
                    taint.deployments.add(
                        name=deployment,
                        model_version=version,
                        gateway=serving.gateway,
                        model_name=serving.model_name,
                    )
        if (entry := await self._recorded(project, source)) is not None:
            taint.quarantine.ParseFromString(entry.value)
        return taint


def _source(project: ProjectName, text: str) -> str:
    """A source as lineages name it: an artifact by its digest."""
    if text.startswith(f"{project}/artifacts/"):
        return f"sha256:{ArtifactName.parse(text, 'source').artifact}"
    if not text.startswith(("sha256:", f"{project}/")):
        problem = f"must be a digest (`sha256:...`) or the name of a job or a version of {project}"
        raise InvalidArgument("INVALID_FIELD", fields={"source": problem})
    return text
