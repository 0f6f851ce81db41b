"""What a revision with a pipeline asks of the scheduler, and its repositories: a model for each step, an ensemble."""

import json
from typing import Final

from chassis.artifacts import ArtifactStore
from lepton.errors import InvalidArgument
from lepton.inference.v1.revision_pb2 import DeploymentRevision
from lepton.models import ModelPackage
from lepton.names import DeploymentName, DeploymentRevisionName
from lepton.scheduler.v1.program_pb2 import ServedModel
from lepton.scheduler.v1.scheduler_service_pb2 import CreateWorkloadRequest
from services.inference import repository
from services.inference.pipelines.prepared import Prepared, PreparedStep
from services.inference.pipelines.resolution import versions_of
from services.inference.registry import Registry
from services.inference.serving import model_name
from services.inference.triton_repository import ensemble
from services.inference.triton_repository.configuration import OWN_VERSION
from services.inference.triton_repository.options import Engine, ServingOptions
from services.inference.triton_repository.variants import variants

MODULE: Final = "services.inference.pipelines.prepare"
_LONGEST_NAME: Final = 127


async def amend(
    request: CreateWorkloadRequest, revision: DeploymentRevision, registry: Registry, artifacts: ArtifactStore
) -> None:
    """Turns the request for the export of a version into that for the preparation of a revision's pipeline."""
    project = DeploymentRevisionName.parse(revision.name).project
    pipeline = await artifacts.put_bytes(project, revision.pipeline.SerializeToString(deterministic=True))
    packages = {
        name: (await registry.get_version(name or revision.model_version)).package
        for name in versions_of(revision.pipeline)
    }
    spec = {"project": project, "pipeline": pipeline, "packages": packages}
    program = request.workload.groups[0].program.torch
    program.module, program.spec_json = MODULE, json.dumps(spec, sort_keys=True)


async def build(revision: DeploymentRevision, manifest: str, artifacts: ArtifactStore) -> list[ServedModel]:
    """Writes the repositories of a prepared pipeline: its steps first, then the ensemble under the deployment's name.

    Raises InvalidArgument.
    """
    name = DeploymentRevisionName.parse(revision.name)
    served = model_name(DeploymentName(name.project, name.deployment))
    prepared = Prepared.parse(await artifacts.read(name.project, manifest))
    options = ServingOptions.of(revision.serving)
    if options.version_policy is not None or options.shared:
        problem = "cannot be had with a pipeline: leave version_policy and shared out"
        raise InvalidArgument("INVALID_FIELD", fields={"deployment.serving": problem})
    models = [await _step(served, step, options, name.project, artifacts) for step in prepared.steps]
    whole = ensemble.render(
        served, [_wired(served, step, prepared) for step in prepared.steps], prepared.signature, _plain(options)
    )
    digest = await repository.store([whole], name.project, artifacts)
    return [*models, ServedModel(name=served, repository=digest, golden=prepared.golden)]


async def _step(
    served: str, step: PreparedStep, options: ServingOptions, project: str, artifacts: ArtifactStore
) -> ServedModel:
    """A model of the version's engines, or of ONNX Runtime for what is declared."""
    name = _name(served, step)
    if step.package:
        package = ModelPackage.parse(await artifacts.read(project, step.package))
        engines = await repository.engines(package, project, artifacts)
        mine = _plain(options, engine=options.engine, engine_required=options.engine_required)
        forms = variants(name, {OWN_VERSION: step.onnx}, step.signature, mine, engines=engines)
    else:
        forms = variants(name, {OWN_VERSION: step.onnx}, step.signature, _plain(options))
    return ServedModel(name=name, repository=await repository.store(forms, project, artifacts), golden=step.golden)


def _plain(options: ServingOptions, engine: Engine = Engine.AUTO, *, engine_required: bool = False) -> ServingOptions:
    """What of the options holds for every model of a pipeline."""
    return ServingOptions(
        max_batch=options.max_batch,
        max_queue_delay_us=options.max_queue_delay_us,
        preferred_batches=options.preferred_batches,
        instances=options.instances,
        threads=options.threads,
        engine=engine,
        engine_required=engine_required,
    )


def _wired(served: str, step: PreparedStep, prepared: Prepared) -> ensemble.Step:
    """A step in the ensemble, with the outputs that somebody takes: Triton refuses a tensor that nobody does."""
    taken = {tensor.name for tensor in prepared.signature.outputs}
    taken |= {source for other in prepared.steps for source in other.inputs.values()}
    outputs = {name: target for name, target in step.outputs.items() if target in taken}
    return ensemble.Step(model=_name(served, step), signature=step.signature, inputs=step.inputs, outputs=outputs)


def _name(served: str, step: PreparedStep) -> str:
    # Behind the deployment's name: no route leads to it, so nobody calls a step but the ensemble.
    name = f"{served}.{step.name}"
    if len(name) > _LONGEST_NAME:
        problem = f"makes the model name {name[:60]}... longer than {_LONGEST_NAME} characters; shorten it"
        raise InvalidArgument("INVALID_FIELD", fields={f"deployment.pipeline.steps[{step.name}].name": problem})
    return name
