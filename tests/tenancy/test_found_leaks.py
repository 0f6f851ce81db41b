"""Leaks that were found and closed, each by name."""

from typing import Any

import pytest

from lepton.inference.v1 import inference_service_pb2, model_pb2
from lepton.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from lepton.models import Architecture, ModelPackage
from lepton.models.package import GOLDEN, WEIGHTS
from lepton.scheduler.v1 import program_pb2, scheduler_service_pb2, workload_pb2
from lepton.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from services.inference import package_check
from tests.tenancy.conftest import Tenants
from tests.tenancy.population import SIGNATURE, upload, workload_of

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="package")]


async def _package(tenants: Tenants, lineage: dict[str, str]) -> str:
    """A package of the caller that says of itself where it comes from."""
    caller = tenants.caller
    stub: Any = InferenceServiceStub(await tenants.world.connect("inference", caller.token))
    version = await stub.GetModelVersion(
        inference_service_pb2.GetModelVersionRequest(name=caller.names["ModelVersion"])
    )
    package = ModelPackage(
        architecture=Architecture(),
        files={WEIGHTS: version.files[WEIGHTS], GOLDEN: version.files[GOLDEN]},
        signature=SIGNATURE,
        metrics={},
        lineage=lineage,
    )
    return await upload(tenants.world, caller, package.render())


async def _registered(tenants: Tenants, other_version: str) -> model_pb2.ModelVersion:
    """A version trained on from an unregistered package, whose lineage names a version of the other tenant."""
    above = await _package(tenants, {"parent": other_version})
    digest = await _package(tenants, {"initial_model": above})
    stub: Any = InferenceServiceStub(await tenants.world.connect("inference", tenants.caller.token))
    version = model_pb2.ModelVersion(package=digest)
    request = inference_service_pb2.CreateModelVersionRequest(
        parent=tenants.caller.names["Model"], model_version=version
    )
    registered: model_pb2.ModelVersion = await stub.CreateModelVersion(request)
    return registered


async def test_a_made_up_lineage_does_not_bring_the_ancestry_of_anothers_version(tenants: Tenants) -> None:
    named = tenants.other.names["ModelVersion"]
    told = set((await _registered(tenants, named)).lineage.ancestry)
    absent = set((await _registered(tenants, tenants.prober._absent(named))).lineage.ancestry)
    assert tenants.other.names["Job"] not in told
    assert len(told) == len(absent), "nor does it tell whether there is such a version"


async def test_a_lineage_that_is_followed_anywhere_brings_it(tenants: Tenants, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""

    async def anywhere(self: Any, _project: Any, lineage: Any) -> list[Any]:
        return [await self._version(lineage.parent)] if lineage.parent else []

    monkeypatch.setattr(package_check.PackageCheck, "_still_there", anywhere)
    told = (await _registered(tenants, tenants.other.names["ModelVersion"])).lineage.ancestry
    assert tenants.other.names["Job"] in told


@pytest.mark.parametrize("method", ["CreateWorkload", "BatchCreateWorkloads"])
async def test_a_workload_runs_no_job_of_another_project(tenants: Tenants, method: str) -> None:
    """Its agent would ask the trainer for that job, and say in the slice what it was answered."""
    texts = []
    for job in (tenants.other.names["Job"], tenants.prober._absent(tenants.other.names["Job"])):
        workload = workload_of(tenants.caller)
        torch = program_pb2.TorchProgram(module="services.trainer.worker", job=job)
        workload.groups[0].program.CopyFrom(program_pb2.Program(torch=torch))
        texts.append((await _refused(tenants, method, workload)).replace(job, "JOB"))
    assert texts[0] == texts[1]
    assert "must be a job of projects/alpha" in texts[0]


async def _refused(tenants: Tenants, method: str, workload: workload_pb2.Workload) -> str:
    stub: Any = SchedulerServiceStub(await tenants.world.connect("scheduler", tenants.caller.token))
    one = scheduler_service_pb2.CreateWorkloadRequest(
        parent=tenants.caller.project, workload_id="borrowed", workload=workload
    )
    if method == "BatchCreateWorkloads":
        batch = scheduler_service_pb2.BatchCreateWorkloadsRequest(parent=tenants.caller.project, requests=[one])
        return str((await stub.BatchCreateWorkloads(batch)).results[0])
    with pytest.raises(Exception, match="invalid fields") as refused:
        await stub.CreateWorkload(one)
    return str(refused.value.trailing_metadata())
