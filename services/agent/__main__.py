"""Starts the agent of this machine."""

import os

from chassis.app import App, run
from services.agent import inventory
from services.agent.config import AgentConfig
from services.agent.fence import BootClock
from services.agent.node import describe
from services.agent.outbox import Outbox
from services.agent.process_runner import ProcessRunner
from services.agent.report import Reporting
from services.agent.runner import Surroundings
from services.agent.session import Session
from services.agent.slices import Slices
from services.agent.torch_runner import TorchRunner
from services.agent.triton import TritonTools
from services.agent.triton_runner import TritonRunner
from services.agent.warm_launcher import WarmLauncher
from services.agent.work import WorkFolders, exclusive


async def build(config: AgentConfig, app: App) -> None:
    """Put the agent together; what is entered later is closed earlier."""
    environ = dict(os.environ)
    await app.enter(exclusive(config.state_dir))
    folders = WorkFolders(config.state_dir / "work")
    folders.clear()
    launcher = await app.enter(WarmLauncher(environ))
    await app.join_mesh(follows_policy=False)
    node, surroundings = await describe(config), None
