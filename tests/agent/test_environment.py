"""What reaches a process's environment and arguments, and what never does."""

import sys
from pathlib import Path

import pytest

from lepton.errors import InvalidArgument
from lepton.internal.v1 import node_session_pb2
from lepton.internal.v1.run_report_pb2 import StartRunResponse
from lepton.scheduler.v1 import program_pb2, workload_pb2
from services.agent.environment import (
    NODE_PYTHON,
    checked,
    checked_argv,
    command,
    rank_variables,
    visible_devices,
)
from services.agent.order import SliceOrder, read_orders

N2 = "pools/p/nodes/n2"


async def orders(*devices: tuple[int, ...], kind: str = "torch") -> tuple[SliceOrder, ...]:
    program = program_pb2.Program(torch=program_pb2.TorchProgram(module="m"))
    if kind == "process":
        program = program_pb2.Program(process=program_pb2.ProcessProgram(argv=["true"]))
    start = node_session_pb2.StartSlices(
        workload="projects/acme/workloads/w",
        workload_uid="u-1",
        generation=3,
        gang_size=4,
        slices=[
            workload_pb2.Slice(index=index + 2, group="worker", node=N2, devices=each)
            for index, each in enumerate(devices)
        ],
        programs={"worker": program},
        gang_nodes=["pools/p/nodes/n1", N2],
    )
    return read_orders(start, N2)


async def test_a_rank_gets_torchruns_contract() -> None:
    _, order = await orders((0,), (1,))
    run = StartRunResponse(
        resume_manifest="r",
        older_manifests=["q", "p"],
        parallelism_json="{}",
        hang_timeout_s=600,
        preflight=True,
    )
    got = rank_variables(order, store_endpoint="10.0.0.7:29500", spec=Path("/w/spec.json"), run=run, data="/d/images")
    expected = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1"}
    expected |= {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "u-1.3"}
    expected |= {"TORCHELASTIC_RESTART_COUNT": "2", "LEPTON_SPEC": "/w/spec.json", "LEPTON_RESUME": "r"}
    expected |= {"LEPTON_RESUME_OLDER": "q,p", "LEPTON_PARALLELISM": "{}", "LEPTON_HANG_TIMEOUT_S": "600"}
    expected |= {"LEPTON_PREFLIGHT": "1", "LEPTON_DATA": "/d/images"}
    assert got.items() >= expected.items()


async def test_ranks_with_one_device_each_see_those_of_their_node_and_take_the_one_of_their_local_rank() -> None:
    uuids = {0: "GPU-a", 1: "GPU-b", 2: "GPU-c", 3: "GPU-d"}
    first, second = await orders((2,), (0,))
    assert visible_devices(first, uuids) == visible_devices(second, uuids) == "GPU-c,GPU-a"
    _, shared = await orders((1,), (1,))
    assert visible_devices(shared, uuids) == "GPU-b"
    _, many = await orders((0, 1), (2, 3))
    assert visible_devices(many, uuids) == "GPU-c,GPU-d"
    _, own = await orders((2,), (0,), kind="process")
    assert visible_devices(own, uuids) == "GPU-a"
    assert visible_devices(first, {}) == ""


@pytest.mark.parametrize(
    "name",
    [
        *("LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONSTARTUP", "BASH_ENV", "GLIBC_TUNABLES", "PATH", "HOME"),
        *("LEPTON_PARALLELISM", "LEPTON_HANG_TIMEOUT_S", "LEPTON_PREFLIGHT", "LEPTON_RESUME_OLDER", "LEPTON_DATA"),
        *("RANK", "MASTER_ADDR", "LEPTON_ARTIFACTS", "TORCHELASTIC_RUN_ID", "TRACEPARENT", "CUDA_VISIBLE_DEVICES"),
        *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_CERTIFICATE"),
        *("", "lower", "A=B", "A\nB", "A" * 65, "Ä"),
    ],
)
def test_names_that_change_what_runs_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        checked({name: "x"})


def test_a_value_may_hold_anything_but_nul() -> None:
    assert checked({"A": "$(id); `id`\nx"}) == {"A": "$(id); `id`\nx"}
    with pytest.raises(InvalidArgument):
        checked({"A": "x\0y"})
    with pytest.raises(InvalidArgument):
        checked({"A": "x" * (1 << 20)})


def test_arguments_may_hold_anything_but_nul() -> None:
    assert checked_argv(["a", "; rm -rf /", ""]) == ("a", "; rm -rf /", "")
    with pytest.raises(InvalidArgument):
        checked_argv(["a\0b"])
    with pytest.raises(InvalidArgument):
        checked_argv(["x" * (1 << 20)])


async def test_an_order_whose_names_could_leave_its_folder_is_refused() -> None:
    for workload, uid in (("projects/acme/workloads/..", "u"), ("projects/a/workloads/w", "../u"), ("w", "u")):
        with pytest.raises(InvalidArgument):
            read_orders(node_session_pb2.StartSlices(workload=workload, workload_uid=uid), N2)


def test_the_nodes_own_interpreter_is_filled_in_as_a_command_only() -> None:
    assert command([NODE_PYTHON, "-m", "json"]) == (sys.executable, "-m", "json")
    assert command(["echo", NODE_PYTHON]) == ("echo", NODE_PYTHON)
    with pytest.raises(InvalidArgument):
        command(["a\0b"])
