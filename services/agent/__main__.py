"""Starts the agent of this machine."""

import asyncio
import os

from chassis.app import App, run
from chassis.artifact_keys import ArtifactKeys, ask_as_node
from chassis.issuer import serving_issuer
from lepton.artifacts import Location
from services.agent.admin import admin
from services.agent.artifact_places import ArtifactPlaces, keys_folder
from services.agent.cold_ranks import ColdRanks
from services.agent.collector_roots import node_roots
from services.agent.config import AgentConfig
from services.agent.confinement import conceal
from services.agent.fence import BootClock
from services.agent.isolation import Isolation
from services.agent.model_cache import ModelCache
from services.agent.node import describe, device_models, device_uuids, usage_meter
from services.agent.outbox import Outbox
from services.agent.process_runner import ProcessRunner
from services.agent.processes import Warden
from services.agent.report import Reporting
from services.agent.requirements import pip_settings
from services.agent.runner import Runner, Surroundings
from services.agent.secret_files import SecretFiles, folder_in_memory
from services.agent.secrets import Secrets
from services.agent.session import Session
from services.agent.slices import Slices
from services.agent.staging import Staging
from services.agent.tasks import Tasks
from services.agent.torch_runner import TorchRunner
from services.agent.triton_memory import LeakLimit
from services.agent.triton_offer import tools
from services.agent.triton_runner import TritonRunner
from services.agent.triton_tls import ServingCertificate
from services.agent.warm_launcher import WarmLauncher
from services.agent.work import WorkFolders, exclusive


async def build(config: AgentConfig, app: App) -> None:
    """Put the agent together; what is entered later is closed earlier."""
    conceal()  # what it was started with may hold the keys of the artifact store
    environ = dict(os.environ)
    await app.enter(exclusive(config.state_dir))
    files = SecretFiles(folder_in_memory(config.secrets_dir, config.state_dir, environ))
    await app.enter(files.prepared())
    keys = keys_folder(folder_in_memory(config.secrets_dir, config.state_dir, environ), config.state_dir)
    hidden = (*files.hidden, str(keys))
    isolation = Isolation(config.isolation, config.state_dir, shown=config.artifact_folders, hidden=hidden)
    isolation.prepare()
    if isolation.has_users:
        config.state_dir.chmod(0o711)
    folders, scratch = WorkFolders(config.state_dir / "work"), WorkFolders(config.scratch)
    folders.clear()
    scratch.clear()
    staging = Staging(
        root=config.state_dir / "cache",
        folders=folders,
        clock=app.clock,
        sizes=config.caches,
        pip=pip_settings(config.pip, environ),
    )
    staging.clear_up()
    launcher = await app.enter(WarmLauncher(environ))
    warden = await app.enter(Warden(environ))
    await app.join_mesh(follows_policy=False)
    models = ModelCache.made(config.state_dir / "cache" / "models", most_bytes=config.caches.model_bytes)

    async def forget(project: str) -> None:
        await staging.forget(project)
        if models is not None:
            await asyncio.to_thread(models.forget, project)

    places = None
    if Location.parse(config.artifacts).has_project_keys:
        known = ArtifactKeys(ask_as_node(app.peers.channel("auth")), app.clock)
        places = ArtifactPlaces(config.artifacts, keys, known, app.clock, isolation.user, forget)
        places.clear()
        app.loop("keys of artifacts", places.run)
    node = await describe(config)
    roots = node_roots(config, app.identity)
    place = Surroundings(
        address=config.address,
        artifacts=config.artifacts,
        otlp_endpoint=config.telemetry.otlp_endpoint,
        otlp_certificate=roots,
        device_uuids=device_uuids(node),
        device_models=device_models(node),
        places=places,
    )
    secrets = Secrets(app.peers.channel("auth") if "auth" in config.peers else None, files, app.clock)
    reporting = await app.enter(Reporting(app.peers.channel("trainer"), app.clock))
    certificate = None
    if config.triton is not None:
        certificate = ServingCertificate(
            member=app.identity,
            issue=serving_issuer(app.peers.channel("auth")),
            node=config.node,
            folder=config.state_dir / "serving",
            clock=app.clock,
        )
        app.loop("serving certificate", certificate.keep_forever)
    runners: dict[str, Runner] = {
        "torch": TorchRunner(
            surroundings=place,
            folders=folders,
            scratch=scratch,
            staging=staging,
            isolation=isolation,
            launcher=launcher,
            cold=ColdRanks(warden, environ),
            reporting=reporting,
            secrets=secrets,
        ),
        "triton": TritonRunner(
            surroundings=place,
            folders=folders,
            tools=tools(config.triton),
            trace_url=config.trace_url,
            leak=LeakLimit(growth_bytes=config.triton.memory_growth_bytes) if config.triton else None,
            servers=app.peers.channel("inference") if "inference" in config.peers else None,
            cache=models,
            certificate=certificate,
        ),
        "process": ProcessRunner(
            surroundings=place, folders=folders, inherited=environ, warden=warden, secrets=secrets
        ),
    }
    outbox = Outbox()
    slices = await app.enter(Slices(node=node.name, runners=runners, outbox=outbox))
    array_root = config.state_dir / "work" / "tasks"
    tasks = await app.enter(
        Tasks(surroundings=place, root=array_root, inherited=environ, warden=warden, secrets=secrets)
    )
    scheduler, usage, grace_s = app.peers.channel("scheduler"), usage_meter(config, app.clock), config.grace_s
    session = Session(
        channel=scheduler,
        node=node,
        slices=slices,
        tasks=tasks,
        outbox=outbox,
        usage=usage,
        clock=app.clock,
        grace_s=grace_s,
    )
    app.loop("session", session.run)
    await app.enter(admin(config.listen, app.metrics))


if __name__ == "__main__":
    run(AgentConfig, build, clock=BootClock(), starts_processes=True)
