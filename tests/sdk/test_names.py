"""Resource names: what parses, what does not, and the one NOT_FOUND."""

import pytest

from lepton.errors import InvalidArgument
from lepton.names import (
    ArtifactName,
    CheckpointName,
    JobName,
    NodeName,
    ProjectName,
    ResourceName,
    RoleBindingName,
    VersionName,
    check_id,
    not_found,
    project_of,
)

ALL = ResourceName.__subclasses__()


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_name_is_what_it_was_parsed_from(kind: type[ResourceName]) -> None:
    ids = {**dict.fromkeys(("{artifact}", "{data_labels}", "{identity}"), "a" * 64), "{revision}": "7"}
    text = "/".join(ids.get(part, part.strip("{}").replace("_", "-")) for part in kind.pattern.split("/"))
    name = kind.parse(text)
    assert str(name) == text
    assert kind.parse(str(name)) == name
    assert hash(name) == hash(kind.parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "", "jobs/one", "projects/acme/jobs", "projects/acme/jobs/", "projects/acme/jobs/One",
        "projects/acme/jobs/one/x", "projects//jobs/one", "projects/acme/jobs/../x",
        "projects/acme/jobs/%2e%2e", "projects/acme/jobs/one\n",
        "projects/acme/jobs/one\x00", "projects/acme/jobs/onе", "projects/acme/jobs/-one", "projects/acme/jobs/one-",
        "projects/acme/jobs/" + "a" * 64, "/projects/acme/jobs/one", "projects/acme/jobs/1one",
    ],
)  # fmt: skip
def test_what_is_no_name_is_refused_by_field(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        JobName.parse(text, "job.name")
    assert caught.value.fields == {"job.name": "must have the form projects/{project}/jobs/{job}"}


def test_a_name_cannot_be_made_of_bad_parts() -> None:
    with pytest.raises(InvalidArgument) as caught:
        JobName("acme", "../x")
    assert set(caught.value.fields) == {"job"}


def test_parents() -> None:
    assert JobName(project="acme", job="one").parent == ProjectName("acme")
    assert CheckpointName("acme", "one", "000012").parent == JobName("acme", "one")
    assert str(VersionName("acme", "digits", "1").parent) == "projects/acme/models/digits"
    assert str(NodeName("general", "n7").parent) == "pools/general"
    assert str(RoleBindingName("acme", "b1").parent) == "projects/acme"
    assert ArtifactName("acme", "0" * 64).parent == ProjectName("acme")


@pytest.mark.parametrize(
    ("resource", "project"),
    [
        ("projects/acme", "acme"),
        ("projects/acme/jobs/one", "acme"),
        ("pools/general", None),
        ("", None),
        ("projects/", None),
    ],
)
def test_the_project_of_a_resource(resource: str, project: str | None) -> None:
    assert project_of(resource) == project


@pytest.mark.parametrize(
    ("name", "reason", "facts"),
    [
        ("projects/acme/jobs/one", "JOB_NOT_FOUND", {"job": "projects/acme/jobs/one"}),
        ("projects/acme", "PROJECT_NOT_FOUND", {"project": "projects/acme"}),
        ("pools/general/nodes/n7", "NODE_NOT_FOUND", {"node": "pools/general/nodes/n7"}),
        (
            "projects/a/serviceAccounts/b",
            "SERVICE_ACCOUNT_NOT_FOUND",
            {"service_account": "projects/a/serviceAccounts/b"},
        ),
        ("nonsense", "RESOURCE_NOT_FOUND", {"resource": "nonsense"}),
    ],
)
def test_there_is_one_not_found(name: str, reason: str, facts: dict[str, str]) -> None:
    error = not_found(name)
    assert (error.reason, error.metadata) == (reason, facts)
    assert name in error.message


def test_a_chosen_id_is_checked_under_its_field() -> None:
    assert check_id("one", "job_id") == "one"
    with pytest.raises(InvalidArgument) as caught:
        check_id("One", "job_id")
    assert set(caught.value.fields) == {"job_id"}
