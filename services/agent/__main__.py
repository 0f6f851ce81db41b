"""Starts the agent of this machine."""

import os

from chassis.app import App, run
from services.agent.admin import admin
from services.agent.cold_ranks import ColdRanks
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
from services.agent.session import Session
from services.agent.slices import Slices
from services.agent.staging import Staging
from services.agent.tasks import Tasks
from services.agent.torch_runner import TorchRunner
from services.agent.triton_memory import LeakLimit
from services.agent.triton_offer import tools
from services.agent.triton_runner import TritonRunner
from services.agent.warm_launcher import WarmLauncher
from services.agent.work import WorkFolders, exclusive


async def build(config: AgentConfig, app: App) -> None:
    """Put the agent together; what is entered later is closed earlier."""
    conceal()  # what it was started with may hold the keys of the artifact store
    environ = dict(os.environ)
    await app.enter(exclusive(config.state_dir))
    isolation = Isolation(config.isolation, config.state_dir, shown=config.artifact_folders)
    isolation.prepare()
    if isolation.has_users:
        config.state_dir.chmod(0o711)
    folders, scratch = WorkFolders(config.state_dir / "work"), WorkFolders(config.scratch)
    folders.clear()
    scratch.clear()
    staging = Staging(
        root=config.state_dir / "cache",
        artifacts=config.artifacts,
        folders=folders,
        clock=app.clock,
        sizes=config.caches,
        pip=pip_settings(config.pip, environ),
    )
    staging.clear_up()
    launcher = await app.enter(WarmLauncher(environ))
    warden = await app.enter(Warden(environ))
    await app.join_mesh(follows_policy=False)
    node = await describe(config)
    place = Surroundings(
        address=config.address,
        artifacts=config.artifacts,
        otlp_endpoint=config.telemetry.otlp_endpoint,
        device_uuids=device_uuids(node),
        device_models=device_models(node),
    )
    reporting = await app.enter(Reporting(app.peers.channel("trainer"), app.clock))
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
        ),
        "triton": TritonRunner(
            surroundings=place,
            folders=folders,
            tools=tools(config.triton),
            trace_url=config.trace_url,
            leak=LeakLimit(growth_bytes=config.triton.memory_growth_bytes) if config.triton else None,
            servers=app.peers.channel("inference") if "inference" in config.peers else None,
            cache=ModelCache.made(config.state_dir / "cache" / "models", most_bytes=config.caches.model_bytes),
        ),
        "process": ProcessRunner(surroundings=place, folders=folders, inherited=environ, warden=warden),
    }
    outbox = Outbox()
    slices = await app.enter(Slices(node=node.name, runners=runners, outbox=outbox))
    array_root = config.state_dir / "work" / "tasks"
    tasks = await app.enter(Tasks(surroundings=place, root=array_root, inherited=environ, warden=warden))
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
