"""Compliance policies, exemptions, labels, findings and reports of the real auth service."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from chassis.kv import Event
from lepton.auth.v1 import compliance_service_pb2 as pb
from lepton.auth.v1.access_service_pb2 import CreateRoleBindingRequest
from lepton.auth.v1.audit_service_pb2 import QueryAuditRequest
from lepton.auth.v1.compliance_pb2 import (
    ComplianceExemption,
    ComplianceFinding,
    CompliancePolicy,
    ComplianceRule,
    DataLabels,
    LicenseRule,
    PromotionRule,
    ResidencyRule,
    RetentionRule,
)
from lepton.auth.v1.directory_service_pb2 import CreateProjectRequest, CreateUserRequest, DeleteProjectRequest
from lepton.auth.v1.role_binding_pb2 import RoleBinding
from lepton.errors import Aborted, AlreadyExists, InvalidArgument, NotFound, PermissionDenied, ResourceExhausted
from lepton.internal.v1.compliance_feed_pb2 import ReportFindingsRequest
from lepton.internal.v1.policy_feed_pb2 import WatchPolicyRequest
from services.auth.audit_log.sealer import Sealer, Sealing
from services.auth.compliance.room import check_room
from services.auth.compliance.state import ComplianceState
from services.auth.layout import COMPLIANCE_POLICIES
from tests.auth.test_audit import Bench
from tests.harness.auth import RunningAuth, Stubs

DIGEST = "sha256:" + "a" * 64


def policy(**given: Any) -> CompliancePolicy:
    rules = given.pop("rules", [ComplianceRule(id="region", residency=ResidencyRule())])
    return CompliancePolicy(rules=rules, **{"mode": CompliancePolicy.ENFORCE, **given})


async def create(stubs: Stubs, policy_id: str = "law", parent: str = "", **given: Any) -> CompliancePolicy:
    request = pb.CreateCompliancePolicyRequest(
        parent=parent, compliance_policy_id=policy_id, compliance_policy=policy(**given)
    )
    made: CompliancePolicy = await stubs.compliance.CreateCompliancePolicy(request)
    return made


def exemption(resource: str, days: float = 1.0, **given: Any) -> ComplianceExemption:
    made = ComplianceExemption(resource=resource, **{"reason": "agreed with the regulator", **given})
    made.expire_time.FromDatetime(datetime.now(UTC) + timedelta(days=days))
    return made


async def exempt(stubs: Stubs, parent: str, resource: str, **given: Any) -> ComplianceExemption:
    request = pb.CreateComplianceExemptionRequest(
        parent=parent, exemption_id=given.pop("exemption_id", "one"), exemption=exemption(resource, **given)
    )
    made: ComplianceExemption = await stubs.compliance.CreateComplianceExemption(request)
    return made


@pytest_asyncio.fixture
async def admin(memory_auth: RunningAuth) -> AsyncIterator[Stubs]:
    stubs = await memory_auth.admin()
    for project in ("acme", "other"):
        await stubs.directory.CreateProject(CreateProjectRequest(project_id=project))
    yield stubs


async def signed_in(auth: RunningAuth, admin: Stubs, user: str, role: str, parent: str) -> Stubs:
    password = "correct horse battery"
    await admin.directory.CreateUser(CreateUserRequest(user_id=user, password=password))
    binding = RoleBinding(role=role, members=[f"users/{user}"])
    await admin.access.CreateRoleBinding(
        CreateRoleBindingRequest(parent=parent, role_binding_id=user, role_binding=binding)
    )
    return await auth.client((await auth.sign_in(f"users/{user}", password)).access_token)


async def test_a_policy_lives_is_changed_and_reaches_the_services(memory_auth: RunningAuth, admin: Stubs) -> None:
    made = await create(admin, display_name="Data stays here")
    assert made.name == "compliancePolicies/law"
    assert made.remedy == CompliancePolicy.REPORT
    rulebook = memory_auth.app.access._snapshot.compliance  # type: ignore[union-attr]
    assert [(each.name, each.etag) for each in rulebook.policies] == [(made.name, made.etag)]
    with pytest.raises(AlreadyExists):
        await create(admin)
    changed = CompliancePolicy()
    changed.CopyFrom(made)
    changed.mode = CompliancePolicy.WARN
    with pytest.raises(Aborted):
        await admin.compliance.UpdateCompliancePolicy(
            pb.UpdateCompliancePolicyRequest(compliance_policy=changed, etag='"1"')
        )
    request = pb.UpdateCompliancePolicyRequest(compliance_policy=changed, etag=made.etag)
    written = await admin.compliance.UpdateCompliancePolicy(request)
    assert (written.uid, written.create_time, written.mode) == (made.uid, made.create_time, CompliancePolicy.WARN)
    await exempt(admin, made.name, "projects/acme")
    await admin.compliance.DeleteCompliancePolicy(pb.DeleteCompliancePolicyRequest(name=made.name))
    assert not memory_auth.app.access._snapshot.compliance.policies  # type: ignore[union-attr]
    assert not memory_auth.app.access._snapshot.compliance.exemptions  # type: ignore[union-attr]
    with pytest.raises(NotFound):
        await admin.compliance.GetCompliancePolicy(pb.GetCompliancePolicyRequest(name=made.name))


async def test_the_feed_carries_policies_exemptions_and_labels(memory_auth: RunningAuth, admin: Stubs) -> None:
    made = await create(admin)
    await exempt(admin, made.name, "projects/acme/models/m")
    labelled = await admin.compliance.CreateDataLabels(
        pb.CreateDataLabelsRequest(
            parent="projects/acme", digest=DIGEST, data_labels=DataLabels(labels={"region": "eu"})
        )
    )
    peer = await memory_auth.peer(await memory_auth.join("service/trainer"))
    stream = peer.policy.WatchPolicy(WatchPolicyRequest(), timeout=30)
    first = await anext(aiter(stream))
    stream.cancel()
    assert [each.name for each in first.policy.compliance_policies] == [made.name]
    assert [each.resource for each in first.policy.compliance_exemptions] == ["projects/acme/models/m"]
    assert [each.name for each in first.policy.data_labels] == [labelled.name]
    assert first.revision >= int(labelled.etag.strip('"'))


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"rules": []}, "compliance_policy.rules"),
        ({"rules": [ComplianceRule(id="x")]}, "compliance_policy.rules[0]"),
        ({"rules": [ComplianceRule(id="x", residency=ResidencyRule())] * 2}, "compliance_policy.rules[1].id"),
        (
            {"rules": [ComplianceRule(id="x", license=LicenseRule(allowed=["MITT"]))]},
            "compliance_policy.rules[0].license.allowed[0]",
        ),
        (
            {"rules": [ComplianceRule(id="x", license=LicenseRule(allowed=["MIT OR X11"]))]},
            "compliance_policy.rules[0].license.allowed[0]",
        ),
        (
            {"rules": [ComplianceRule(id="x", promotion=PromotionRule())]},
            "compliance_policy.rules[0].promotion",
        ),
        (
            {"rules": [ComplianceRule(id="x", promotion=PromotionRule(four_eyes=True, from_stage="READY"))]},
            "compliance_policy.rules[0].promotion.from_stage",
        ),
        (
            {"rules": [ComplianceRule(id="x", retention=RetentionRule(kind=RetentionRule.CHECKPOINTS))]},
            "compliance_policy.rules[0].retention",
        ),
        ({"mode": CompliancePolicy.WARN, "remedy": CompliancePolicy.QUARANTINE}, "compliance_policy.remedy"),
        ({"projects": ["acme"]}, "compliance_policy.projects[0]"),
    ],
)
async def test_what_makes_no_sense_is_refused_naming_the_field(admin: Stubs, given: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await create(admin, **given)
    assert any(each.startswith(field) for each in caught.value.fields), caught.value.fields


async def test_a_policy_can_be_checked_only(admin: Stubs) -> None:
    rule = ComplianceRule(id="x", license=LicenseRule(allowed=["mit", "apache-2.0"]))
    request = pb.CreateCompliancePolicyRequest(
        compliance_policy_id="law", compliance_policy=policy(rules=[rule]), validate_only=True
    )
    checked = await admin.compliance.CreateCompliancePolicy(request)
    assert list(checked.rules[0].license.allowed) == ["MIT", "Apache-2.0"]
    assert not (await admin.compliance.ListCompliancePolicies(pb.ListCompliancePoliciesRequest())).compliance_policies


async def test_tenants_see_what_they_must_keep_and_no_more(memory_auth: RunningAuth, admin: Stubs) -> None:
    await create(admin, "both", projects=["projects/acme", "projects/other"])
    await create(admin, "others", projects=["projects/other"])
    await create(admin, "own", parent="projects/acme")
    await create(admin, "own", parent="projects/other")
    alice = await signed_in(memory_auth, admin, "alice", "roles/developer", "projects/acme")
    listed = await alice.compliance.ListCompliancePolicies(pb.ListCompliancePoliciesRequest(parent="projects/acme"))
    assert [each.name for each in listed.compliance_policies] == [
        "compliancePolicies/both",
        "projects/acme/compliancePolicies/own",
    ]
    assert list(listed.compliance_policies[0].projects) == ["projects/acme"]
    absent = "projects/nothing/compliancePolicies/own"
    told = []
    for name in ("projects/other/compliancePolicies/own", absent):
        with pytest.raises(NotFound) as caught:
            await alice.compliance.GetCompliancePolicy(pb.GetCompliancePolicyRequest(name=name))
        told.append((caught.value.reason, caught.value.message.replace(name, "NAME")))
    assert told[0] == told[1]
    for parent in ("", "projects/acme"):
        with pytest.raises(PermissionDenied):
            await create(alice, "mine", parent=parent)
    with pytest.raises(PermissionDenied):
        await exempt(alice, "projects/acme/compliancePolicies/own", "projects/acme/models/m")


async def test_a_project_cannot_free_itself_from_the_organisation(memory_auth: RunningAuth, admin: Stubs) -> None:
    made = await create(admin)
    boss = await signed_in(memory_auth, admin, "boss", "roles/admin", "projects/acme")
    for call in (
        lambda: exempt(boss, made.name, "projects/acme"),
        lambda: boss.compliance.DeleteCompliancePolicy(pb.DeleteCompliancePolicyRequest(name=made.name)),
        lambda: boss.compliance.UpdateCompliancePolicy(pb.UpdateCompliancePolicyRequest(compliance_policy=made)),
    ):
        with pytest.raises(PermissionDenied):
            await call()
    own = await create(boss, "own", parent="projects/acme")
    await exempt(boss, own.name, "projects/acme/models/m")


async def test_labels_are_given_once_by_developers_and_changed_by_administrators(
    memory_auth: RunningAuth, admin: Stubs
) -> None:
    alice = await signed_in(memory_auth, admin, "alice", "roles/developer", "projects/acme")
    request = pb.CreateDataLabelsRequest(
        parent="projects/acme", digest=DIGEST, data_labels=DataLabels(labels={"region": "eu"})
    )
    made = await alice.compliance.CreateDataLabels(request)
    with pytest.raises(AlreadyExists):
        await alice.compliance.CreateDataLabels(request)
    other = pb.UpdateDataLabelsRequest(data_labels=DataLabels(name=made.name, labels={"region": "us"}))
    with pytest.raises(PermissionDenied):
        await alice.compliance.UpdateDataLabels(other)
    assert dict((await admin.compliance.UpdateDataLabels(other)).labels) == {"region": "us"}
    listed = await alice.compliance.ListDataLabels(pb.ListDataLabelsRequest(parent="projects/acme"))
    assert [dict(each.labels) for each in listed.data_labels] == [{"region": "us"}]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"days": -1.0}, "exemption.expire_time"),
        ({"days": 400.0}, "exemption.expire_time"),
        ({"rules": ["nothing"]}, "exemption.rules"),
        ({"reason": " "}, "exemption.reason"),
        ({"resource": "pools/eu"}, "exemption.resource"),
        ({"resource": "projects/other/models/m"}, "exemption.resource"),
        ({"resource": "projects/acme/../other"}, "exemption.resource"),
    ],
)
async def test_an_exemption_names_resource_reason_and_end(admin: Stubs, given: Any, field: str) -> None:
    made = await create(admin, parent="projects/acme")
    given = {"resource": "projects/acme/models/m", **given}
    with pytest.raises(InvalidArgument) as caught:
        await exempt(admin, made.name, **given)
    assert field in caught.value.fields, caught.value.fields


def finding(name: str, made: CompliancePolicy, **given: Any) -> ComplianceFinding:
    return ComplianceFinding(
        name=f"projects/acme/complianceFindings/{name}",
        policy=made.name,
        rule="region",
        **{
            "resource": f"projects/acme/models/{name}/versions/1",
            "action": ComplianceFinding.REPORTED,
            **given,
        },
    )


async def test_findings_are_kept_dated_settled_and_audited(memory_auth: RunningAuth, admin: Stubs) -> None:
    made = await create(admin)
    peer = await memory_auth.peer(await memory_auth.join("service/inference"))

    async def report(revision: int, *findings: ComplianceFinding) -> list[ComplianceFinding]:
        await peer.compliance_feed.ReportFindings(
            ReportFindingsRequest(parent="projects/acme", policy_revision=revision, findings=findings)
        )
        request = pb.ListComplianceFindingsRequest(parent="projects/acme")
        return list((await admin.compliance.ListComplianceFindings(request)).findings)

    (first,) = await report(10, finding("a", made))
    assert (first.service, first.HasField("create_time")) == ("inference", True)
    later = await report(11, finding("a", made, action=ComplianceFinding.QUARANTINED), finding("b", made))
    assert later[0].create_time == first.create_time
    assert len(await report(9)) == 2  # by an older policy: dropped
    assert [each.name[-1] for each in await report(12, finding("b", made))] == ["b"]
    records = (await admin.audit.QueryAudit(QueryAuditRequest(parent="projects/acme", page_size=1000))).audit_records
    told = [(each.action, each.resource.split("/")[3], each.reason) for each in records if "compliance." in each.action]
    why = "compliancePolicies/law region"
    assert told == [
        ("compliance.found", "a", why),
        ("compliance.quarantined", "a", why),
        ("compliance.found", "b", why),
        ("compliance.settled", "a", why),
    ]
    await admin.compliance.DeleteCompliancePolicy(pb.DeleteCompliancePolicyRequest(name=made.name))
    request = pb.ListComplianceFindingsRequest(parent="projects/acme")
    assert not (await admin.compliance.ListComplianceFindings(request)).findings


async def test_findings_are_of_the_project_that_they_are_told_of(memory_auth: RunningAuth, admin: Stubs) -> None:
    made = await create(admin)
    peer = await memory_auth.peer(await memory_auth.join("service/inference"))
    foreign = finding("a", made, resource="projects/other/models/secret/versions/1")
    with pytest.raises(InvalidArgument):
        await peer.compliance_feed.ReportFindings(ReportFindingsRequest(parent="projects/acme", findings=[foreign]))
    told = ReportFindingsRequest(parent="projects/acme", findings=[finding("a", made)], omitted=7)
    await peer.compliance_feed.ReportFindings(told)
    report = await admin.compliance.GetComplianceReport(pb.GetComplianceReportRequest(parent="projects/acme"))
    assert (len(report.findings), report.omitted) == (1, 7)


async def test_only_services_report(memory_auth: RunningAuth, admin: Stubs) -> None:
    request = ReportFindingsRequest(parent="projects/acme")
    with pytest.raises(PermissionDenied):
        await admin.compliance_feed.ReportFindings(request)
    agent = await memory_auth.peer(await memory_auth.join("agent/n1"))
    with pytest.raises(PermissionDenied):
        await agent.compliance_feed.ReportFindings(request)


async def test_a_report_shows_policies_findings_and_evidence(memory_auth: RunningAuth, admin: Stubs) -> None:
    made = await create(admin)
    own = await create(admin, "own", parent="projects/acme")
    kept = await exempt(admin, made.name, "projects/acme/models/m", rules=["region"])
    await exempt(admin, made.name, "projects/other/models/m", exemption_id="foreign")
    peer = await memory_auth.peer(await memory_auth.join("service/inference"))
    await peer.compliance_feed.ReportFindings(
        ReportFindingsRequest(parent="projects/acme", policy_revision=1, findings=[finding("a", made)])
    )
    report = await admin.compliance.GetComplianceReport(pb.GetComplianceReportRequest(parent="projects/acme"))
    assert [each.name for each in report.policies] == [made.name, own.name]
    assert [each.name for each in report.exemptions] == [kept.name]
    assert [(each.policy, each.open) for each in report.counts] == [(made.name, 1), (own.name, 0)]
    assert set(report.looked) == {"inference"}
    shown = {(each.subject, each.action.rpartition("/")[2]): each for each in report.evidence}
    created = shown["projects/acme/compliancePolicies/own", "CreateCompliancePolicy"]
    assert created.actor == "users/admin"
    assert len(created.digest) == 32
    assert ("projects/acme/models/a/versions/1", "compliance.found") in shown
    with pytest.raises(NotFound):
        await admin.compliance.GetComplianceReport(pb.GetComplianceReportRequest(parent="projects/nothing"))


async def test_a_report_shows_audit_records_to_whom_the_log_does(memory_auth: RunningAuth, admin: Stubs) -> None:
    await create(admin, "own", parent="projects/acme")
    request = pb.GetComplianceReportRequest(parent="projects/acme")
    viewer = await signed_in(memory_auth, admin, "viewer", "roles/viewer", "projects/acme")
    seen = await viewer.compliance.GetComplianceReport(request)
    assert (seen.evidence_hidden, len(seen.evidence), len(seen.policies)) == (True, 0, 1)
    boss = await signed_in(memory_auth, admin, "boss", "roles/admin", "projects/acme")
    seen = await boss.compliance.GetComplianceReport(request)
    assert (seen.evidence_hidden, seen.audit_root) == (False, b"")
    assert {each.digest for each in seen.evidence} == {b""}
    assert {len(each.digest) for each in (await admin.compliance.GetComplianceReport(request)).evidence} == {32}


async def test_a_deleted_project_leaves_nothing(memory_auth: RunningAuth, admin: Stubs) -> None:
    made = await create(admin, parent="projects/acme")
    await exempt(admin, made.name, "projects/acme/models/m")
    await admin.compliance.CreateDataLabels(
        pb.CreateDataLabelsRequest(
            parent="projects/acme", digest=DIGEST, data_labels=DataLabels(labels={"region": "eu"})
        )
    )
    await admin.directory.DeleteProject(DeleteProjectRequest(name="projects/acme"))
    compliance = memory_auth.app.access._snapshot.compliance  # type: ignore[union-attr]
    assert (compliance.policies, compliance.exemptions, compliance.data) == ((), (), {})
    peer = await memory_auth.peer(await memory_auth.join("service/trainer"))
    await peer.compliance_feed.ReportFindings(ReportFindingsRequest(parent="projects/acme"))
    assert not (await memory_auth.kv.list("/lepton/auth/complianceFindings/")).entries


@pytest.mark.parametrize(
    ("configured", "longest", "shortest", "mode", "kept"),
    [
        (None, None, None, CompliancePolicy.ENFORCE, None),
        (None, 365, None, CompliancePolicy.ENFORCE, 365),
        (30, None, 90, CompliancePolicy.ENFORCE, 90),  # what must be kept is, whatever the configuration says
        (500, 365, None, CompliancePolicy.ENFORCE, 365),
        (None, None, 90, CompliancePolicy.ENFORCE, None),
        (30, None, 90, CompliancePolicy.WARN, 30),
    ],
)
def test_audit_records_are_kept_as_policies_ask(
    configured: int | None, longest: int | None, shortest: int | None, mode: Any, kept: int | None
) -> None:
    rule = RetentionRule(kind=RetentionRule.AUDIT_RECORDS)
    if longest is not None:
        rule.max_age.FromTimedelta(timedelta(days=longest))
    if shortest is not None:
        rule.min_age.FromTimedelta(timedelta(days=shortest))
    state = ComplianceState()
    if longest is not None or shortest is not None:
        state.policies["p"] = policy(mode=mode, rules=[ComplianceRule(id="x", retention=rule)])
    days = state.audit_keep(timedelta(days=configured) if configured is not None else None)
    assert days == (timedelta(days=kept) if kept is not None else None)


def test_other_keys_are_not_taken_for_policies() -> None:
    state = ComplianceState()
    assert not state.apply(Event(key="/lepton/auth/policy/roles/x", entry=None, revision=1))
    assert state.apply(Event(key=f"{COMPLIANCE_POLICIES}organisation/x", entry=None, revision=1))


def test_no_project_fills_the_policy_for_the_rest() -> None:
    state = ComplianceState()
    for index in range(500):
        name = f"projects/acme/dataLabels/{index:064x}"
        state.data_labels[name] = DataLabels(name=name, labels={"region": "eu"})
    made = DataLabels(labels={"region": "eu"})
    with pytest.raises(ResourceExhausted, match="500 labelled artifacts of projects/acme"):
        check_room(state, made, "projects/acme")
    check_room(state, made, "projects/other")
    for index in range(2_000):
        name = f"projects/p{index}/compliancePolicies/x"
        state.policies[name] = CompliancePolicy(name=name, description="x" * 1024)
    with pytest.raises(ResourceExhausted, match="256 compliance policies"):
        check_room(state, policy(), "projects/other")
    with pytest.raises(ResourceExhausted, match="2097152 bytes"):
        check_room(state, made, "projects/other")
    with pytest.raises(InvalidArgument, match="512 at the most"):
        check_room(ComplianceState(), DataLabels(labels={"region": "e" * 512}), "projects/acme")


async def test_a_policy_keeps_audit_records_that_the_configuration_would_delete() -> None:
    bench, configured = Bench(keep=timedelta(days=30)), timedelta(days=30)
    rule = RetentionRule(kind=RetentionRule.AUDIT_RECORDS)
    rule.min_age.FromTimedelta(timedelta(days=90))
    state = ComplianceState()
    state.policies["p"] = policy(rules=[ComplianceRule(id="x", retention=rule)])
    sealing = Sealing(keep=configured)
    keep = Sealer(bench.kv, bench.keys, bench.trail, bench.clock, sealing, lambda: state.audit_keep(configured))
    await bench.sealed(4)
    await bench.clock.advance(60 * 86_400)
    assert await keep.expire() == 0
    assert await bench.sealer.expire() == 1  # control: without the policy they go
    await bench.sealed(4)
    await bench.clock.advance(91 * 86_400)
    assert await keep.expire() >= 1
    assert (await bench.check.verify()).findings == []
