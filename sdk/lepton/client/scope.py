"""Short names made whole: ids are completed with the client's project."""

from typing import TypeVar

from lepton.errors import FailedPrecondition
from lepton.names import ProjectName, ResourceName

N = TypeVar("N", bound=ResourceName)


class Scope:
    """The project in which ids and lists are meant when none is given."""

    def __init__(self, project: str = "") -> None:
        self.project = project.removeprefix("projects/")

    def parent(self, project: str | None = None) -> str:
        """`projects/{project}` of the project given, as an id or a name, or else of the client's."""
        project_id = (project or self.project).removeprefix("projects/")
        if not project_id:
            raise FailedPrecondition("PROJECT_MISSING")
        return str(ProjectName.parse(f"projects/{project_id}", "project"))

    def name(self, kind: type[N], text: str) -> str:
        """The whole name of a project's resource of this kind that `text` means: a whole name, or an id."""
        if "/" in text:
            return str(kind.parse(text))
        collection = kind.pattern.split("/")[-2]
        return str(kind.parse(f"{self.parent()}/{collection}/{text}"))
