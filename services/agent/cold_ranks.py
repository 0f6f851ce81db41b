"""Starts ranks in an interpreter of their own, by way of the warden: those whose packages are not the launcher's."""

import os
from collections.abc import Mapping
from pathlib import Path

from lepton.errors import Unavailable
from services.agent.confinement import command
from services.agent.launcher import RankLaunch
from services.agent.launcher.child import REPORT_FD
from services.agent.launcher.cold import command as cold_command
from services.agent.launcher.launch import rank_environment
from services.agent.process import Process
from services.agent.processes import CannotRun, Warden


class ColdRanks:
    """The node's ranks that are not forked: the same environment, report socket and exit codes, and the same death."""

    def __init__(self, warden: Warden, environ: Mapping[str, str]) -> None:
        self._warden, self._environ = warden, environ

    async def start(self, launch: RankLaunch, python: Path) -> Process:
        """Start a rank with an interpreter. Unavailable when there is no process to be had."""
        argv = command(launch.confinement, cold_command(python, launch.entry, launch.argv), files=REPORT_FD + 1)
        environment = rank_environment(self._environ, {**launch.env, **launch.secrets})
        environment["VIRTUAL_ENV"] = str(python.parents[1])
        environment["PATH"] = f"{python.parent}:{environment.get('PATH', os.defpath)}"
        try:
            return await self._warden.start(launch.rank_id, argv, environment=environment, folder=launch.cwd)
        except CannotRun as error:
            raise Unavailable("RANK_NOT_STARTED", why=str(error)) from error
