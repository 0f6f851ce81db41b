"""`client.projects`: the tenants."""

from lepton.auth.v1 import directory_service_pb2 as pb
from lepton.auth.v1.directory_service_pb2_grpc import DirectoryServiceStub
from lepton.auth.v1.project_pb2 import Project
from lepton.client.calls import Calls
from lepton.client.group import Group, new_request_id
from lepton.client.listing import Listing, Page
from lepton.client.scope import Scope


class Projects(Group):
    """Creates, reads, lists and deletes projects."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = DirectoryServiceStub(calls.channel("auth"))

    async def create(self, project_id: str, *, display_name: str = "", request_id: str = "") -> Project:
        """A new project. AlreadyExists."""
        project = Project(display_name=display_name)
        request = pb.CreateProjectRequest(
            project_id=project_id, project=project, request_id=request_id or new_request_id()
        )
        return await self._calls.unary(self._stub.CreateProject, request)

    async def get(self, project: str = "") -> Project:
        """A project by id or name; the client's own when none is given."""
        return await self._calls.unary(self._stub.GetProject, pb.GetProjectRequest(name=self._scope.parent(project)))

    def list(self, *, page_size: int = 0) -> Listing[Project]:
        """The projects in which the caller has a role."""

        async def page(token: str) -> Page[Project]:
            request = pb.ListProjectsRequest(page_size=page_size, page_token=token)
            answer = await self._calls.unary(self._stub.ListProjects, request)
            return answer.projects, answer.next_page_token

        return Listing(page)

    async def delete(self, project: str, *, etag: str = "") -> None:
        """Delete an empty project."""
        request = pb.DeleteProjectRequest(name=self._scope.parent(project), etag=etag)
        await self._calls.unary(self._stub.DeleteProject, request)
