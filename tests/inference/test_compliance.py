"""Compliance at the inference service: versions, promotions, deployments; and what is quarantined and let back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chassis.access import Binding
from chassis.compliance import Compliance
from chassis.compliance_watch import ComplianceWatch
from chassis.paging import Pager
from lepton.auth.v1.compliance_pb2 import (
    ComplianceExemption,
    ComplianceFinding,
    CompliancePolicy,
    DeploymentRule,
    LicenseRule,
    PromotionRule,
    ResidencyRule,
)
from lepton.errors import FailedPrecondition
from lepton.inference.v1 import inference_service_pb2 as pb
from lepton.inference.v1 import registry_pb2
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.inference_service_pb2_grpc import InferenceServiceStub, add_InferenceServiceServicer_to_server
from lepton.inference.v1.model_pb2 import Model, ModelVersion
from services.inference.batch.predictions import BatchPredictions
from services.inference.compliance import BY, ModelInspector
from services.inference.deployments import Deployments
from services.inference.registry import Registry
from services.inference.servicer import InferenceServicer
from services.inference.store import PAGE_KEY
from tests.harness.clock import ManualClock
from tests.harness.compliance import Reports, governed, labelled, policy, rule_by
from tests.harness.mesh import Mesh, serving
from tests.inference.batch.test_batch_servicer import request as batch_request
from tests.inference.conftest import PROJECT, World, deployment_request, version_request

BINDINGS = tuple(Binding(principal=f"users/{user}", role="roles/admin", scope=PROJECT) for user in ("alice", "bob"))
PRODUCTION, STAGING = ModelVersion.PRODUCTION, ModelVersion.STAGING


class Governed:
    """An inference service, the policies that it follows, and what it tells of."""

    def __init__(self, world: World, mesh: Mesh, registry: Registry, stub: Any, clock: ManualClock) -> None:
        self.world, self.mesh, self.registry, self.stub, self.clock = world, mesh, registry, stub, clock
        self.compliance: Compliance = registry.compliance
        self.reports = Reports()
        inspector = ModelInspector(world.kv, registry)
        self.watch = ComplianceWatch(self.compliance, inspector, self.reports, clock, every_s=30)

    def rule(self, *rules: Any, **given: Any) -> None:
        exemptions = given.pop("exemptions", ())
        rule_by(self.compliance, policy("law", *rules, **given), exemptions=exemptions)

    @asynccontextmanager
    async def signed_in(self, user: str) -> AsyncIterator[Any]:
        async with self.mesh.client(f"users/{user}") as channel:
            yield InferenceServiceStub(channel)

    async def version(self, model_id: str = "digits", **given: Any) -> ModelVersion:
        model = Model(labels=given.pop("labels", {}))
        made = await self.stub.CreateModel(pb.CreateModelRequest(parent=PROJECT, model_id=model_id, model=model))
        return await self.register(made, **given)

    async def register(self, model: Model, tags: Any = None) -> ModelVersion:
        request = version_request(model, await self.world.package())
        request.model_version.tags.update(tags or {})
        made: ModelVersion = await self.stub.CreateModelVersion(request)
        return made

    async def promote(self, version: ModelVersion, stage: Any = PRODUCTION, stub: Any = None) -> ModelVersion:
        request = registry_pb2.TransitionModelVersionStageRequest(name=version.name, stage=stage)
        moved: ModelVersion = await (stub or self.stub).TransitionModelVersionStage(request)
        return moved

    async def deploy(self, version: ModelVersion, deployment_id: str = "prod-digits", **fields: Any) -> Deployment:
        made: Deployment = await self.stub.CreateDeployment(deployment_request(version.name, deployment_id, **fields))
        return made

    async def change(self, made: Deployment, field: str, **fields: Any) -> Deployment:
        wanted = Deployment(name=made.name, model_version=made.model_version, **{"replicas": 1, **fields})
        request = pb.UpdateDeploymentRequest(deployment=wanted)
        request.update_mask.paths.append(field)
        changed: Deployment = await self.stub.UpdateDeployment(request)
        return changed

    async def quarantine_of(self, version: ModelVersion) -> list[str]:
        return [cause.principal for cause in (await self.registry.get_version(version.name)).quarantine]


@pytest.fixture
async def service(world: World) -> AsyncIterator[Governed]:
    clock = ManualClock(datetime.now(UTC))
    registry = Registry(world.kv, world.artifacts, governed(clock=clock))
    served = Deployments(world.kv, registry, "gateway:443")
    servicer = InferenceServicer(world.kv, registry, served, await Pager.open(world.kv, PAGE_KEY))
    registration = (add_InferenceServiceServicer_to_server, servicer)
    async with serving(registration, name="inference", bindings=BINDINGS) as mesh, mesh.client() as channel:
        yield Governed(world, mesh, registry, InferenceServiceStub(channel), clock)


async def test_a_version_says_who_has_registered_it(service: Governed) -> None:
    assert (await service.version()).creator == "users/alice"


async def test_models_are_registered_under_licences_that_are_allowed(service: Governed) -> None:
    service.rule(LicenseRule(allowed=["Apache-2.0", "MIT"], kind=LicenseRule.MODELS, require_label=True))
    with pytest.raises(FailedPrecondition, match="has no label license"):
        await service.version("a")
    with pytest.raises(FailedPrecondition, match="is under AGPL-3.0-only, which is not allowed"):
        await service.version("b", tags={"license": "AGPL-3.0-only"})
    assert (await service.version("c", labels={"license": "AGPL-3.0-only OR MIT"})).name.endswith("/c/versions/1")
    assert (await service.version("d", labels={"license": "X11"}, tags={"license": "MIT"})).name


async def test_gates_stand_before_production(service: Governed) -> None:
    version = await service.version()
    gates = PromotionRule(
        gates=[PromotionRule.Gate(metric="accuracy", min=0.95)], tags=["model-card"], from_stage="STAGING"
    )
    service.rule(gates)
    with pytest.raises(FailedPrecondition) as caught:
        await service.promote(version)
    told = caught.value.fields["compliancePolicies/law/rules/promotion"]
    for part in ("accuracy of", "is 0.9, and must be at least 0.95", "no tag model-card", "in stage NONE"):
        assert part in told
    await service.promote(version, STAGING)
    gates.gates[0].min = 0.9
    service.rule(gates)
    with pytest.raises(FailedPrecondition, match="no tag model-card"):
        await service.promote(version)
    tagged = ModelVersion(name=version.name, tags={"model-card": "here"})
    await service.stub.UpdateModelVersion(registry_pb2.UpdateModelVersionRequest(model_version=tagged))
    assert (await service.promote(version)).stage == PRODUCTION


async def test_four_eyes_are_of_two_people(service: Governed) -> None:
    version = await service.version()
    service.rule(PromotionRule(four_eyes=True))
    with pytest.raises(FailedPrecondition, match="was registered by users/alice"):
        await service.promote(version)
    async with service.signed_in("bob") as bob:
        assert (await service.promote(version, stub=bob)).stage == PRODUCTION


async def test_who_may_deploy_what_to_production(service: Governed) -> None:
    version = await service.version()
    service.rule(DeploymentRule(deployments=["prod-*"], members=["users/bob"], stages=["PRODUCTION"]))
    with pytest.raises(FailedPrecondition) as caught:
        await service.deploy(version)
    told = caught.value.fields["compliancePolicies/law/rules/deployment"]
    assert "users/alice may not deploy there" in told
    assert "is in stage NONE, not PRODUCTION" in told
    tried = await service.deploy(version, "try-digits")
    await service.promote(version)
    with pytest.raises(FailedPrecondition, match="users/alice may not deploy there"):
        await service.deploy(version)
    async with service.signed_in("bob") as bob:
        made = await bob.CreateDeployment(deployment_request(version.name, "prod-digits"))
    assert made.model_version == tried.model_version == version.name


async def test_a_deployment_cannot_be_changed_past_a_rule(service: Governed) -> None:
    model = (await service.version(labels={"region": "eu"})).name.partition("/versions/")[0]
    first = await service.register(Model(name=model))
    made = await service.deploy(first, pools=["pools/eu"])
    service.rule(ResidencyRule())
    with pytest.raises(FailedPrecondition, match="is of region eu, and pools/us is of region us"):
        await service.change(made, "pools", pools=["pools/us"])
    assert (await service.change(made, "replicas", replicas=3)).replicas == 3
    service.rule(ResidencyRule(), mode=CompliancePolicy.DRY_RUN)
    await service.change(made, "pools", pools=["pools/us"])
    await service.change(made, "pools", pools=["pools/eu"])
    service.rule(ResidencyRule())
    with pytest.raises(FailedPrecondition, match="COMPLIANCE_VIOLATION"):
        await service.stub.UndoDeploymentRollout(pb.UndoDeploymentRolloutRequest(name=made.name, revision=2))


async def test_a_batch_prediction_on_data_stays_where_the_data_may_be(service: Governed) -> None:
    version = await service.version()
    dataset = await service.world.artifacts.put_bytes("acme", b"rows")
    strict, data = policy("law", ResidencyRule()), labelled(dataset, region="eu")
    rule_by(service.compliance, strict, data=data)
    batches = BatchPredictions(service.world.kv, service.registry, service.world.artifacts)
    await batches.create(batch_request(version.name, dataset, pools=["pools/eu"]))
    elsewhere = batch_request(version.name, dataset, pools=["pools/us"])
    elsewhere.batch_prediction_id = "elsewhere"
    with pytest.raises(FailedPrecondition, match="pools/us is of region us"):
        await batches.create(elsewhere)
    rule_by(service.compliance, strict, data=labelled(dataset, region="us"))  # it was labelled wrongly
    await service.watch.round()
    assert [each.resource for each in service.reports.last] == [f"{PROJECT}/batchPredictions/scores"]


async def test_a_gate_is_asked_of_the_strategy(service: Governed) -> None:
    version = await service.version()
    service.rule(DeploymentRule(require_gate=True))
    with pytest.raises(FailedPrecondition, match="without a promotion gate"):
        await service.deploy(version)
    strategy = Deployment().strategy
    strategy.gate.SetInParent()
    made = await service.deploy(version, strategy=strategy)
    with pytest.raises(FailedPrecondition, match="without a promotion gate"):
        await service.change(made, "strategy")


async def test_control_without_policies_all_of_it_goes(service: Governed) -> None:
    version = await service.version(tags={"license": "AGPL-3.0-only"})
    await service.promote(version)
    await service.deploy(version, pools=["pools/us"])
    assert await service.watch.round() == 0
    assert service.reports.requests == []


async def test_versions_are_quarantined_and_let_back_with_the_policy(service: Governed) -> None:
    good = await service.version("good", tags={"license": "MIT"})
    bad = await service.version("bad", tags={"license": "AGPL-3.0-only"})
    made = await service.deploy(bad)
    allow = LicenseRule(allowed=["MIT"])
    service.rule(allow)
    await service.watch.round()
    found = {each.resource: each for each in service.reports.last}
    assert set(found) == {bad.name, made.name}
    assert found[bad.name].action == ComplianceFinding.REPORTED
    assert list(found[bad.name].digests) == [bad.package]
    assert await service.quarantine_of(bad) == []
    service.rule(allow, remedy=CompliancePolicy.QUARANTINE)
    await service.watch.round()
    await service.watch.round()
    actions = {each.resource: each.action for each in service.reports.last}
    assert actions == {bad.name: ComplianceFinding.QUARANTINED, made.name: ComplianceFinding.REPORTED}
    assert await service.quarantine_of(bad) == [BY]
    assert await service.quarantine_of(good) == []
    with pytest.raises(FailedPrecondition, match="VERSION_QUARANTINED"):
        await service.deploy(bad, "again")
    kept = ComplianceExemption(name="compliancePolicies/law/exemptions/e", resource=f"{PROJECT}/models/bad")
    kept.expire_time.FromDatetime(service.clock.now() + timedelta(hours=1))
    service.rule(allow, remedy=CompliancePolicy.QUARANTINE, exemptions=(kept,))
    await service.watch.round()
    assert await service.quarantine_of(bad) == []
    await service.clock.advance(3601)
    await service.watch.round()
    assert await service.quarantine_of(bad) == [BY]
    rule_by(service.compliance)
    await service.watch.round()
    assert await service.quarantine_of(bad) == []


async def test_a_quarantine_by_people_is_not_lifted(service: Governed) -> None:
    version = await service.version()
    await service.stub.QuarantineModels(
        registry_pb2.QuarantineModelsRequest(parent=PROJECT, source=version.name, reason="recalled")
    )
    service.rule(LicenseRule(allowed=["MIT"]), remedy=CompliancePolicy.QUARANTINE)
    await service.watch.round()
    assert await service.quarantine_of(version) == ["users/alice"]


async def test_what_was_promoted_before_the_gate_is_found(service: Governed) -> None:
    version = await service.version()
    await service.promote(version)
    service.rule(PromotionRule(tags=["model-card"], four_eyes=True, from_stage="STAGING"))
    await service.watch.round()
    (found,) = service.reports.last
    assert (found.resource, found.message) == (version.name, f"{version.name} has no tag model-card")


async def test_what_a_policy_quarantined_that_went_while_nobody_looked_is_let_back(service: Governed) -> None:
    version = await service.version()
    service.rule(LicenseRule(allowed=["MIT"], require_label=True), remedy=CompliancePolicy.QUARANTINE)
    await service.watch.round()
    assert await service.quarantine_of(version) == [BY]
    rule_by(service.compliance)
    inspector = ModelInspector(service.world.kv, service.registry)
    await ComplianceWatch(service.compliance, inspector, Reports(), service.clock, every_s=30).round()
    assert await service.quarantine_of(version) == []
