"""The same no-op jobs on Debian's Slurm: its own munged, slurmctld and slurmd on the loopback, for this run alone."""

import asyncio
import os
import shutil
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from tests.harness.ports import free_ports
from tests.harness.wait import until

_NEEDED: Final = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "sinfo")
_SEARCHED: Final = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
# What its guide for high throughput asks for, as far as it concerns one node; nothing is accounted for.
_CONF: Final = """\
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={controller}
SlurmdPort={node}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/builtin
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,default_queue_depth=10000,max_rpc_cnt=150
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MessageTimeout=60
MinJobAge=300
MaxJobCount=100000
MaxArraySize=100000
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={at_once} State=UNKNOWN
PartitionName=bench Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


async def measure(folder: Path, jobs: int, at_once: int) -> dict[str, Any]:
    """Jobs per second of one array job, to the last one's completion."""
    missing = [each for each in _NEEDED if shutil.which(each, path=_SEARCHED) is None]
    if missing or os.geteuid() != 0:
        return {
            "skipped": f"needs root and {', '.join(missing)} (apt-get install slurm-wlm)" if missing else "needs root"
        }
    async with _cluster(folder, at_once) as run:
        began = time.monotonic()
        await run(
            "sbatch", f"--array=0-{jobs - 1}", "--output=/dev/null", "--error=/dev/null", "--chdir=/", "--wrap=true"
        )
        submitted_s = time.monotonic() - began

        async def are_done() -> bool:
            await asyncio.sleep(0.2)  # to ask costs the controller too
            return len((await run("squeue", "-h", "-r", "-t", "CD", "-o", "%i")).split()) >= jobs

        await until(are_done, 60 + jobs / 2)
        spent = time.monotonic() - began
        version = (await run("sinfo", "--version")).split()[-1]
        return {"version": version, "jobs_per_s": round(jobs / spent, 1), "submitted_after_s": round(submitted_s, 2)}


@asynccontextmanager
async def _cluster(folder: Path, at_once: int) -> AsyncIterator[Any]:
    for each in ("state", "spool"):
        (folder / each).mkdir(parents=True)
    folder.chmod(0o755)  # noqa: ASYNC240 - nothing else runs yet
    controller, node = free_ports(2)
    host, conf = socket.gethostname().partition(".")[0], folder / "slurm.conf"
    conf.write_text(_CONF.format(folder=folder, host=host, controller=controller, node=node, at_once=at_once))
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    environment = {**os.environ, "SLURM_CONF": str(conf), "PATH": _SEARCHED}
    munged: tuple[str, ...] = (
        "munged",
        "--foreground",
        "--force",
        f"--key-file={key}",
        f"--socket={folder}/munge.socket",
    )
    munged += tuple(f"--{each}-file={folder}/munge.{each}" for each in ("pid", "log", "seed"))

    async def run(*command: str) -> str:
        child = await asyncio.create_subprocess_exec(*command, env=environment, stdout=-1, stderr=-1)
        said, complaint = await child.communicate()
        if child.returncode:
            raise SystemExit(f"{command[0]} failed: {complaint.decode()}")
        return said.decode()

    async def is_idle() -> bool:
        child = await asyncio.create_subprocess_exec("sinfo", "-h", "-o", "%t", env=environment, stdout=-1, stderr=-1)
        return b"idle" in (await child.communicate())[0].split()

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_daemon(folder, *munged, environment=environment))
        await until((folder / "munge.socket").exists, 20)
        await stack.enter_async_context(_daemon(folder, "slurmctld", "-D", "-f", str(conf), environment=environment))
        await stack.enter_async_context(
            _daemon(folder, "slurmd", "-D", "-f", str(conf), "-N", host, environment=environment)
        )
        await until(is_idle, 60)
        yield run


@asynccontextmanager
async def _daemon(folder: Path, *command: str, environment: dict[str, str]) -> AsyncIterator[None]:
    with (folder / f"{command[0]}.out").open("wb") as log:
        child = await asyncio.create_subprocess_exec(*command, env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        if child.returncode is None:
            child.terminate()
        try:
            await asyncio.wait_for(child.wait(), 20)
        except TimeoutError:
            child.kill()
            await child.wait()
