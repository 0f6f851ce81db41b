"""Labels of artifacts: where data is from, under which licence it may be used; what rules go by."""

from chassis.kv import present
from lepton.auth.v1 import compliance_service_pb2 as pb
from lepton.auth.v1.compliance_pb2 import DataLabels
from lepton.names import DataLabelsName, ProjectName
from services.auth import layout
from services.auth.compliance.room import check_room, check_size
from services.auth.policy import Policy
from services.auth.store import Store


class DataLabelling:
    """They are never deleted: what is known of data stays, whoever would rather not know it."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self._store = store
        self._policy = policy

    async def create(self, request: pb.CreateDataLabelsRequest) -> DataLabels:
        """The first labels of an artifact; whether there is one is for the service to know that owns it."""
        project = ProjectName.parse(request.parent, "parent")
        name = DataLabelsName(project.project, request.digest.removeprefix("sha256:"))
        await self._store.entry(project, layout.project(project))
        made = DataLabels(labels=request.data_labels.labels)
        check_room(self._policy.compliance, made, str(project))
        needs = [present(layout.project(project))]
        created = await self._store.create(request, made, name, layout.data_label(name), needs=needs)
        await self._policy.reached(int(created.etag.strip('"')))
        return created

    async def page(self, request: pb.ListDataLabelsRequest) -> tuple[list[DataLabels], str]:
        """The labels of a project's artifacts."""
        return await self._store.page(
            layout.data_labels(ProjectName.parse(request.parent, "parent")), request, DataLabels
        )

    async def update(self, request: pb.UpdateDataLabelsRequest) -> DataLabels:
        """Other labels."""
        name = DataLabelsName.parse(request.data_labels.name, "data_labels.name")
        check_size(DataLabels(labels=request.data_labels.labels))

        def relabelled(labels: DataLabels) -> DataLabels:
            labels.labels.clear()
            labels.labels.update(request.data_labels.labels)
            return labels

        made, revision = await self._store.update(name, layout.data_label(name), DataLabels, request.etag, relabelled)
        await self._policy.reached(revision)
        return made
