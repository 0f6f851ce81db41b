"""Projects: created with an administrator, listed to whoever has a role in them, deleted for good."""

from typing import Final

from chassis.access import ORGANISATION
from chassis.call import Principal
from chassis.etags import unchanged
from chassis.kv import Delete, DeletePrefix, Entry, Put, absent
from lepton.auth.v1.directory_service_pb2 import CreateProjectRequest, ListProjectsRequest
from lepton.auth.v1.project_pb2 import Project
from lepton.auth.v1.role_binding_pb2 import RoleBinding
from lepton.names import ProjectName, RoleBindingName
from services.auth import layout
from services.auth.audit import Deed
from services.auth.policy import Policy
from services.auth.project_keys import ProjectKeys
from services.auth.store import Store, already_exists, stamp

CREATOR: Final = "creator"  # the id of the binding that a project begins with


class Projects:
    """The tenants."""

    def __init__(self, store: Store, policy: Policy, keys: ProjectKeys) -> None:
        self._store = store
        self._policy = policy
        self._keys = keys

    async def create(self, request: CreateProjectRequest, creator: Principal) -> Project:
        """A new project; who creates it administers it. The id of a deleted project is never given again."""
        name = ProjectName(request.project_id)
        binding_name = RoleBindingName(name.project, CREATOR)
        binding = RoleBinding(role="roles/admin", members=[creator.name])
        stamp(binding, binding_name, self._store.clock)
        retired = layout.retired_project(name)

        async def check() -> None:
            # Other services may still hold what belonged to the deleted project: nobody else may inherit it.
            if await self._store.kv.get(retired) is not None:
                raise already_exists(name)

        project = await self._store.create(
            request,
            Project(display_name=request.project.display_name, labels=request.project.labels),
            name,
            layout.project(name),
            needs=[absent(retired)],
            also=[Put(layout.binding(binding_name), binding.SerializeToString())],
            check=check,
        )
        await self._policy.reached(int(project.etag.strip('"')))
        return project

    async def get(self, name: ProjectName) -> Project:
        """A project."""
        return await self._store.get(name, layout.project(name), Project)

    async def page(self, request: ListProjectsRequest, projects: frozenset[str]) -> tuple[list[Project], str]:
        """Those of the projects that are named; all for {"*"}."""

        def keep(entry: Entry) -> bool:
            return entry.key.removeprefix(layout.PROJECTS) in projects

        everything = ORGANISATION in projects
        return await self._store.page(layout.PROJECTS, request, Project, keep=None if everything else keep)

    async def delete(self, name: ProjectName, etag: str) -> None:
        """Delete a project with its service accounts, API keys and bindings; what seals its data is destroyed."""

        async def write() -> int | None:
            entry = await self._store.entry(name, layout.project(name))
            destroyed = await self._keys.destruction(name)
            done = await self._store.audit.commit(
                Deed(resource=str(name), reason=destroyed.reason),
                [unchanged(entry, etag, name), *destroyed.guard],
                [
                    Delete(entry.key),
                    DeletePrefix(layout.service_accounts(name)),
                    DeletePrefix(layout.project_api_keys(name)),
                    DeletePrefix(layout.workload_trusts(name)),
                    DeletePrefix(layout.bindings(name)),
                    DeletePrefix(layout.secrets(name)),
                    DeletePrefix(layout.project_secret_values(name)),
                    DeletePrefix(layout.project_secret_uses(name)),
                    DeletePrefix(layout.compliance_policies(name)),
                    DeletePrefix(layout.project_compliance_exemptions(name)),
                    DeletePrefix(layout.data_labels(name)),
                    DeletePrefix(layout.compliance_findings(name)),
                    Put(layout.retired_project(name), b""),
                    *destroyed.then,
                ],
            )
            return done.revision if done.succeeded else None

        await self._policy.reached(await self._store.retry(write))
