"""What all tasks of one array on this node share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from lepton.errors import InvalidArgument
from lepton.internal.v1 import node_session_pb2 as pb
from lepton.names import WorkloadName, check_id
from services.agent.array_secrets import ArraySecrets
from services.agent.environment import checked, command, task_variables
from services.agent.launcher.launch import rank_environment
from services.agent.runner import Surroundings
from services.agent.task import Task

_UID: Final = "[A-Za-z0-9][A-Za-z0-9-]{0,63}"


@dataclass(frozen=True, slots=True)
class TaskCommand:
    """What each of them runs."""

    argv: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    refusal: str = ""  # why none of them can be started


@dataclass(slots=True, eq=False)
class TaskArray:
    """One array."""

    uid: str
    workload: str
    first_index: int
    command: TaskCommand  # of its newest generation, as what follows
    secrets: ArraySecrets
    generation: int = 0
    tasks: dict[int, Task] = field(default_factory=dict)  # by position, its newest place


def command_of(message: pb.StartTasks, surroundings: Surroundings, inherited: Mapping[str, str]) -> TaskCommand:
    """What an order says to run, in the environment that it gets here. InvalidArgument for one that cannot be read."""
    project = WorkloadName.parse(message.workload, "workload").project
    check_id(message.workload_uid, "workload_uid", _UID)  # it names directories
    try:
        argv = command(message.program.argv)
        own = task_variables(surroundings, project, message.generation, message.trace_context, message.task_count)
        environment = rank_environment(inherited, {**checked(message.program.environment), **own})
    except InvalidArgument as error:
        return TaskCommand(refusal=f"cannot start: {error}")
    return TaskCommand(argv, environment)
