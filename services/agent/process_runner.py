"""Runs process programs: any command, as an argument list, in a folder of its own."""

from collections.abc import Mapping

from lepton.scheduler.v1 import workload_pb2
from services.agent.attendant import Attendant
from services.agent.environment import checked, command, slice_variables, visible_devices
from services.agent.launcher.launch import rank_environment
from services.agent.order import SliceOrder
from services.agent.processes import CannotRun, Warden
from services.agent.runner import Ending, SliceControl, Surroundings
from services.agent.work import WorkFolders

Slice = workload_pb2.Slice
_NOT_FOUND = 127  # as a shell says it


class ProcessRunner:
    """Starts what the program says and attends it."""

    def __init__(
        self, *, surroundings: Surroundings, folders: WorkFolders, inherited: Mapping[str, str], warden: Warden
    ) -> None:
        self._surroundings, self._folders, self._inherited = surroundings, folders, inherited
        self._warden = warden

    async def run(self, order: SliceOrder, control: SliceControl) -> Ending:
        """Run the command to its end."""
        program = order.program.process
        argv, wanted = command(program.argv), checked(program.environment)
        place = self._surroundings
        own = slice_variables(
            order,
            artifacts=place.artifacts,
            otlp_endpoint=place.otlp_endpoint,
            traceparent=control.traceparent,
            visible_devices=visible_devices(order, place.device_uuids),
        )
        async with self._folders.open(order.folder) as folder:
            environment = rank_environment(self._inherited, {**wanted, **own, "HOME": str(folder)})
            try:
                process = await self._warden.start(order.folder, argv, environment=environment, folder=folder)
            except CannotRun as error:
                return Ending(state=Slice.FAILED, exit_code=_NOT_FOUND, message=str(error))
            control.running()
            return await Attendant(process, control, journal=None).attend()
