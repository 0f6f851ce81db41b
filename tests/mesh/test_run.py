"""A user's own script on a whole stack: sent, placed, run by two ranks on data of its own, its output kept."""

from pathlib import Path

import pytest

from lepton.client import AsyncClient
from lepton.script import Script
from lepton.trainer.v1.job_pb2 import Job, JobError, Workers
from tests.mesh.conftest import Stack

pytestmark = [pytest.mark.slow, pytest.mark.integration]
EXAMPLES = Path(__file__).parents[2] / "examples"


async def lines(client: AsyncClient, job: Job) -> list[str]:
    return [line.text async for line in client.jobs.logs(job.name)]


async def test_scripts_run_as_jobs(stack: Stack, client: AsyncClient, tmp_path: Path) -> None:
    plain = Script(path=EXAMPLES / "plain_ddp" / "train.py", argv=("--epochs", "3"))
    first = await client.jobs.submit_script("plain", plain, Job(workers=Workers(count=2)))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "words.txt").write_text("read from the data")
    (tmp_path / "code" / "pkg").mkdir(parents=True)
    (tmp_path / "code" / "pkg" / "train.py").write_text(
        "import os, sys; words = open(os.environ['LEPTON_DATA'] + '/words.txt').read();"
        "print(words, sys.argv[1:], os.environ['COLOUR'])"
    )
    module = Script(
        module="pkg.train",
        folder=tmp_path / "code",
        argv=("a;b",),
        environment={"COLOUR": "blue"},
        data=tmp_path / "data",
    )
    second = await client.jobs.submit_script("module", module)
    broken = Script(module="pkg.missing", folder=tmp_path / "code")
    third = await client.jobs.submit_script("broken", broken, Job(workers=Workers(count=1)))
    for job in (first, second):
        ended = await client.jobs.wait(job.name, timeout_s=90)
        assert ended.state == Job.SUCCEEDED, ended.error
    assert [line for line in await lines(client, first) if line.startswith("epoch 2")]
    assert await lines(client, second) == ["read from the data ['a;b'] blue"]
    failed = await client.jobs.wait(third.name, timeout_s=90)
    assert failed.state == Job.FAILED
    assert getattr(failed.error, "class") == JobError.USER_ERROR
    assert any("pkg.missing" in line for line in failed.error.log_tail)
