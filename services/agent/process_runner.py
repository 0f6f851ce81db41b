"""Runs process programs: any command, as an argument list, in a folder of its own."""

from collections.abc import Mapping
from contextlib import AsyncExitStack

from lepton.scheduler.v1 import workload_pb2
from services.agent.attendant import Attendant
from services.agent.environment import checked, command, slice_variables, visible_devices
from services.agent.launcher.launch import rank_environment
from services.agent.order import SliceOrder
from services.agent.processes import CannotRun, Warden
from services.agent.runner import Ending, SliceControl, Surroundings
from services.agent.secrets import Secrets, no_secrets
from services.agent.work import WorkFolders

Slice = workload_pb2.Slice
_NOT_FOUND = 127  # as a shell says it


class ProcessRunner:
    """Starts what the program says and attends it."""

    def __init__(
        self,
        *,
        surroundings: Surroundings,
        folders: WorkFolders,
        inherited: Mapping[str, str],
        warden: Warden,
        secrets: Secrets | None = None,
    ) -> None:
        self._surroundings, self._folders, self._inherited = surroundings, folders, inherited
        self._warden, self._secrets = warden, secrets or no_secrets()

    async def run(self, order: SliceOrder, control: SliceControl) -> Ending:
        """Run the command to its end."""
        program = order.program.process
        argv, wanted = command(program.argv), checked(program.environment)
        place = self._surroundings
        await place.artifacts_ready(order.project)
        own = slice_variables(
            order,
            place,
            traceparent=control.traceparent,
            visible_devices=visible_devices(order, place.device_uuids),
        )
        fetched = await self._secrets.fetch_for(order)
        async with self._folders.open(order.folder) as folder, AsyncExitStack() as stack:
            given = stack.enter_context(self._secrets.lay_out(fetched, order.short))
            environment = rank_environment(self._inherited, {**wanted, **given.environment, **own, "HOME": str(folder)})
            try:
                process = await self._warden.start(order.folder, argv, environment=environment, folder=folder)
            except CannotRun as error:
                return Ending(state=Slice.FAILED, exit_code=_NOT_FOUND, message=str(error))
            control.running()
            return await Attendant(process, control, journal=None, mask=given.mask).attend()
