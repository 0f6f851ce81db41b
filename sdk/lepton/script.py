"""A training script of the user's own, with the folder that it is in: what `lepton run` submits.

from pathlib import Path
from lepton.client import Client
from lepton.script import Script
from lepton.trainer.v1.job_pb2 import Job, Workers

with Client(project="acme") as client:
    script = Script(path=Path("train.py"), argv=("--lr", "0.1"), data=Path("images"))
    job = client.jobs.submit_script("my-job", script, Job(workers=Workers(count=4)))
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lepton import bundle
from lepton.bundle import Bundle
from lepton.bundle_names import problem_of
from lepton.errors import InvalidArgument, NotFound
from lepton.trainer.v1.job_pb2 import CodeBundle


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A script that is ready to be uploaded; its digest is not known yet."""

    code: CodeBundle
    bundle: Bundle
    data: Bundle | None  # None: none, or one that is in the store already
    dataset: str  # the digest of that one


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """Which program runs, from which folder, with which arguments. Exactly one of `path` and `module` is given."""

    path: Path | None = None
    module: str = ""  # as `python -m` takes it
    folder: Path | None = None  # what is bundled; default: the script's folder, or the current one for a module
    argv: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    working_directory: str = ""  # relative to the folder
    requirements: Path | None = None  # a file in the folder
    data: Path | str | None = None  # a file, a folder, or the digest of an artifact

    def prepare(self) -> Prepared:
        """Look at everything that will be sent. InvalidArgument or NotFound, naming what to correct."""
        if bool(self.path) == bool(self.module):
            raise _invalid("script", "name a script, or a module with -m; one of the two")
        folder = self._folder()
        content = bundle.of_code(folder)
        there = {entry.name for entry in content.entries}
        code = CodeBundle(
            entry_point=_within(folder, self.path, there, "script") if self.path is not None else "",
            module=self.module,
            argv=self.argv,
            environment=self.environment,
            working_directory=self._working_directory({each.name for each in content.entries if each.is_folder}),
            requirements=_within(folder, self.requirements, there, "requirements") if self.requirements else "",
        )
        is_digest = isinstance(self.data, str) and self.data.startswith("sha256:")
        data = bundle.of_data(Path(self.data)) if self.data and not is_digest else None
        return Prepared(code=code, bundle=content, data=data, dataset=str(self.data) if is_digest else "")

    def _folder(self) -> Path:
        if self.path is not None and not self.path.is_file():
            raise NotFound("FILE_NOT_FOUND", file=str(self.path))
        if self.folder is not None:
            return self.folder
        return self.path.absolute().parent if self.path is not None else Path.cwd()

    def _working_directory(self, folders: set[str]) -> str:
        name = os.path.normpath(self.working_directory) if self.working_directory else "."
        if name == ".":
            return ""
        if problem_of(name) or name not in folders:
            raise _invalid("working_directory", f"{self.working_directory} is no folder of the bundle")
        return name


def _within(folder: Path, path: Path, there: set[str], field_name: str) -> str:
    """A file's path within the bundle; given as it is reached from here, or from the bundle's root."""
    absolute = Path(os.path.normpath(path.absolute()))  # not resolved: in the bundle a link is a link
    root = Path(os.path.normpath(folder.absolute()))
    if not absolute.is_relative_to(root):
        absolute, root = absolute.resolve(), root.resolve()
    if not absolute.is_relative_to(root):
        raise _invalid(
            field_name, f"{path} is not in the bundled folder {folder}; name a folder above it with --bundle"
        )
    name = absolute.relative_to(root).as_posix()
    if name not in there:
        raise _invalid(field_name, f"{path} is left out of the bundle; take it back in a .leptonignore file (!{name})")
    return name


def _invalid(field_name: str, problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={field_name: problem})
