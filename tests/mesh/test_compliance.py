"""Compliance over the whole running mesh: written in auth, kept by scheduler, trainer and inference, reported."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lepton import data
from lepton.auth.v1.compliance_pb2 import (
    ComplianceFinding,
    CompliancePolicy,
    ComplianceRule,
    LicenseRule,
    ResidencyRule,
)
from lepton.cli import exits
from lepton.cli.root import app
from lepton.client import AsyncClient
from lepton.compliance.report import html
from lepton.errors import FailedPrecondition
from lepton.profile import Profile, write
from lepton.scheduler.v1.pool_pb2 import Pool
from lepton.scheduler.v1.workload_pb2 import Workload
from lepton.trainer.v1.job_pb2 import Job, Recipe, Workers
from tests.harness.wait import until
from tests.mesh.conftest import PROJECT, Stack

pytestmark = [pytest.mark.integration, pytest.mark.slow]  # a whole stack is started


def residency(mode: Any, remedy: Any = CompliancePolicy.REPORT) -> CompliancePolicy:
    rules = [
        ComplianceRule(id="region", residency=ResidencyRule()),
        ComplianceRule(id="licence", license=LicenseRule(allowed=["MIT"], kind=LicenseRule.MODELS)),
    ]
    return CompliancePolicy(mode=mode, remedy=remedy, projects=[f"projects/{PROJECT}"], rules=rules)


async def test_data_stays_in_its_region(stack: Stack, client: AsyncClient, tmp_path: Path) -> None:
    warnings: list[str] = []
    password = await asyncio.to_thread(stack.home.admin_password.read_text)
    async with AsyncClient(
        Profile.load(stack.home.profile_file),
        project=PROJECT,
        user="admin",
        password=password.strip(),
        on_warning=warnings.append,
    ) as told:
        for region in ("eu", "us"):
            await client.pools.create(f"c-{region}", Pool(labels={"region": region}))
        dataset = (await client.artifacts.upload(data.to_safetensors(data.digits()))).digest
        await client.compliance.label(dataset, {"region": "eu"})

        async def submit(job_id: str, *pools: str) -> Job:
            recipe = Recipe(name="image_classifier", epochs=1)
            job = Job(recipe=recipe, dataset=dataset, workers=Workers(count=1), pools=pools)
            return await told.jobs.create(job_id, job)

        # Warned, and let pass.
        made = await client.compliance.create_policy("eu", residency(CompliancePolicy.WARN), project="*")

        async def is_warned() -> bool:
            await submit(f"warned-{len(warnings)}-{asyncio.get_running_loop().time():.0f}", "pools/c-us")
            return bool(warnings)

        await until(is_warned, 30)
        assert "pools/c-us is of region us" in warnings[0]

        # Refused. The policy reaches the trainer by its feed.
        made.mode = CompliancePolicy.ENFORCE
        await client.compliance.update_policy(made.name, made)

        async def is_refused() -> bool:
            try:
                await submit(f"tried-{asyncio.get_running_loop().time():.2f}".replace(".", "-"), "pools/c-us")
            except FailedPrecondition as error:
                return error.reason == "COMPLIANCE_VIOLATION" and error.metadata["policy"] == made.name
            return False

        await until(is_refused, 30)
        good = await submit("good", "pools/c-eu")

        # So is a workload that no service made, by its own label; the scheduler has the policy by its own feed.
        async def is_refused_by_the_scheduler() -> bool:
            try:
                await told.workloads.create(
                    f"w{asyncio.get_running_loop().time():.2f}".replace(".", "-"), sleeping("c-us")
                )
            except FailedPrecondition as error:
                return error.reason == "COMPLIANCE_VIOLATION" and error.metadata["policy"] == made.name
            return False

        await until(is_refused_by_the_scheduler, 30)
        own = await told.workloads.create("own", sleeping("c-eu"))

        # Found afterwards: what was let pass before; and what has gone elsewhere since.
        pool = Pool(name="pools/c-eu", labels={"region": "us"})
        await client.pools.update(pool, ["labels"])

        async def found(resource: str) -> list[ComplianceFinding]:
            return [each for each in await client.compliance.findings() if each.resource == resource]

        await until(lambda: _some(found(good.name)), 30)
        await until(lambda: _some(found(own.name)), 30)
        # `lepton compliance check` says the same, from what anybody may read.
        checked = await lepton(stack, tmp_path, "compliance", "check", "-o", "json")
        assert checked.exit_code == exits.FAILED, checked.stderr
        assert {good.name, own.name} <= {each["resource"] for each in json.loads(checked.stdout)}
        draft = tmp_path / "draft.yaml"
        draft.write_text("rules: [{id: card, promotion: {tags: [model-card]}}]")
        tried = await lepton(stack, tmp_path, "compliance", "check", "--policy", str(draft))
        assert (tried.exit_code, "every rule is kept" in tried.stderr) == (0, True), tried.stderr

        # Stopped.
        made = await client.compliance.policy("eu", project="*")
        made.remedy = CompliancePolicy.QUARANTINE
        await client.compliance.update_policy(made.name, made)

        async def is_stopped() -> bool:
            return (await client.jobs.get(good.name)).state in (Job.CANCELLING, Job.CANCELLED)

        await until(is_stopped, 30)
        ended = await told.workloads.wait(own.name, timeout_s=30)
        assert (ended.state, "stopped by compliancePolicies/eu" in ended.message) == (Workload.CANCELLED, True)
        report = await client.compliance.report()
        actions = {(each.subject, each.action) for each in report.evidence}
        assert (good.name, "compliance.quarantined") in actions
        assert any("COMPLIANCE_VIOLATION" in each.outcome for each in report.evidence)
        assert set(report.looked) >= {"scheduler", "trainer"}
        assert good.name in html(report)
        await client.compliance.delete_policy("eu", project="*")


def sleeping(pool: str) -> Workload:
    """A workload of region eu in a pool, where it waits: the pool has no nodes."""
    made = Workload(kind=Workload.BATCH, pools=[f"pools/{pool}"], labels={"region": "eu"})
    group = made.groups.add(name="task", min_count=1)
    group.resources.cpu_milli = 100
    group.program.process.argv.append("true")
    return made


async def lepton(stack: Stack, folder: Path, *argv: str) -> Any:
    """A command of the administrator's, whose credentials are in the test's own folder."""
    profile = replace(Profile.load(stack.home.profile_file), folder=folder)
    write(folder / "profile.toml", profile)
    env = {"LEPTON_PROFILE": str(folder / "profile.toml"), "LEPTON_HOME": None}
    password = await asyncio.to_thread(stack.home.admin_password.read_text)
    login = ["login", "--user", "admin", "--password-file", "-"]
    signed_in = await asyncio.to_thread(CliRunner().invoke, app, login, input=password, env=env)
    assert signed_in.exit_code == 0, signed_in.stderr
    return await asyncio.to_thread(CliRunner().invoke, app, [*argv, "--project", PROJECT], env=env)


async def _some(findings: Any) -> bool:
    return bool(await findings)
