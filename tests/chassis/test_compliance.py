"""Compliance in a service: refused, told or let pass by mode; and what exists, found, acted on and told to auth."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bench.echo import Echo, EchoMessage, EchoStub, add_echo_to_server
from chassis.compliance import WARNING, Compliance, asked_by
from chassis.compliance_watch import ComplianceWatch
from chassis.pool_board import PoolBoard
from lepton.auth.v1.compliance_pb2 import (
    ComplianceExemption,
    ComplianceFinding,
    CompliancePolicy,
    LicenseRule,
    ResidencyRule,
)
from lepton.compliance.rulebook import Rulebook, Violation
from lepton.compliance.subject import Act, Subject
from lepton.errors import FailedPrecondition, Unavailable
from lepton.scheduler.v1 import scheduler_service_pb2 as scheduler_pb
from lepton.scheduler.v1.pool_pb2 import Pool
from lepton.scheduler.v1.scheduler_service_pb2_grpc import (
    SchedulerServiceServicer,
    add_SchedulerServiceServicer_to_server,
)
from tests.harness.clock import ManualClock
from tests.harness.compliance import KnownPools, Reports, governed, labelled, policy, rule_by
from tests.harness.mesh import serving

EU = "sha256:" + "e" * 64
DATA = labelled(EU, region="eu", license="GPL-3.0-only")


def job(*pools: str, job_id: str = "j", principal: str = "users/alice") -> Subject:
    return Subject(act=Act.JOB, resource=f"projects/acme/jobs/{job_id}", principal=principal, data=(EU,), pools=pools)


def test_an_enforced_rule_refuses_naming_policy_rule_and_fix() -> None:
    compliance = governed()
    rule_by(compliance, policy("eu", ResidencyRule()), policy("spdx", LicenseRule(allowed=["MIT"])), data=DATA)
    with pytest.raises(FailedPrecondition) as caught:
        compliance.admit(job("pools/us"))
    error = caught.value
    assert error.reason == "COMPLIANCE_VIOLATION"
    assert error.metadata["policy"] == "compliancePolicies/eu"
    assert error.metadata["rule"] == "residency"
    assert error.metadata["fix"] == "name pools with region eu: pools/eu"
    assert set(error.fields) == {"compliancePolicies/eu/rules/residency", "compliancePolicies/spdx/rules/license"}


@pytest.mark.parametrize("mode", [CompliancePolicy.DRY_RUN, CompliancePolicy.WARN])
def test_other_modes_let_pass(mode: Any) -> None:
    compliance = governed()
    rule_by(compliance, policy("eu", ResidencyRule(), mode=mode), data=DATA)
    compliance.admit(job("pools/us"))
    assert len(compliance.judge(job("pools/us"))) == 1


def test_without_policies_nothing_is_demanded() -> None:
    compliance = Compliance()
    compliance.admit(job("pools/us"))
    assert compliance.rulebook == Rulebook()


def test_while_pools_are_not_known_what_depends_on_them_waits() -> None:
    pools = KnownPools()
    compliance = governed(pools=pools)
    rule_by(compliance, policy("eu", ResidencyRule()), data=DATA)
    with pytest.raises(Unavailable, match="COMPLIANCE_NOT_READY"):
        compliance.admit(job("pools/eu"))
    pools.labels = {"pools/eu": {"region": "eu"}}
    compliance.admit(job("pools/eu"))


def test_an_exemption_ends_at_its_time() -> None:
    clock = ManualClock()
    compliance = governed(clock=clock)
    kept = ComplianceExemption(name="compliancePolicies/eu/exemptions/e", resource="projects/acme/jobs/j")
    kept.expire_time.FromDatetime(clock.now() + timedelta(hours=1))
    rule_by(compliance, policy("eu", ResidencyRule()), data=DATA, exemptions=(kept,))
    compliance.admit(job("pools/us"))
    with pytest.raises(FailedPrecondition):
        compliance.admit(job("pools/us", job_id="j2"))
    kept.expire_time.FromDatetime(clock.now())
    with pytest.raises(FailedPrecondition):
        compliance.admit(job("pools/us"))


class Judged(Echo):
    """Judges whoever calls."""

    def __init__(self, compliance: Compliance) -> None:
        self._compliance = compliance

    async def SignedIn(self, request: Any, context: Any) -> Any:
        self._compliance.admit(job("pools/us", principal=asked_by()))
        return EchoMessage(text=asked_by())


async def test_who_is_warned_hears_it_beside_the_answer() -> None:
    compliance = governed()
    async with serving((add_echo_to_server, Judged(compliance))) as mesh, mesh.client() as channel:
        rule_by(compliance, policy("dätä", ResidencyRule(), mode=CompliancePolicy.WARN), data=DATA)
        call = EchoStub(channel).SignedIn(EchoMessage(text="x"))
        assert (await call).text == "users/alice"
        (told,) = [value.decode() for key, value in await call.trailing_metadata() if key == WARNING]
        assert told.startswith("compliancePolicies/dätä (rule residency): ")
        rule_by(compliance, policy("eu", ResidencyRule(), mode=CompliancePolicy.DRY_RUN), data=DATA)
        call = EchoStub(channel).SignedIn(EchoMessage(text="x"))
        await call
        assert WARNING not in dict(await call.trailing_metadata())


class Things:
    """What exists, and what was done to it."""

    def __init__(self, *subjects: Subject) -> None:
        self.all = list(subjects)
        self.out: list[str] = []
        self.standing: Sequence[Violation] = ()
        self.can_quarantine = True

    async def projects(self) -> Iterable[str]:
        return {each.project for each in self.all}

    async def subjects(self, project: str) -> AsyncIterator[Subject]:
        for each in self.all:
            if each.project == project:
                yield each

    async def quarantine(self, violation: Violation) -> bool:
        self.out.append(violation.subject.resource)
        return self.can_quarantine

    async def settle(self, project: str, standing: Sequence[Violation]) -> None:
        self.standing = standing


def watching(compliance: Compliance, things: Things) -> tuple[ComplianceWatch, Reports, ManualClock]:
    clock, reports = ManualClock(datetime(2026, 5, 1, tzinfo=UTC)), Reports()
    return ComplianceWatch(compliance, things, reports, clock, every_s=30), reports, clock


async def test_what_exists_is_found_told_once_and_settled() -> None:
    compliance = governed()
    rule_by(compliance, policy("eu", ResidencyRule()), data=DATA)
    things = Things(job("pools/us", principal=""), job("pools/eu", job_id="good", principal=""))
    watch, reports, clock = watching(compliance, things)
    assert await watch.round() == 1
    (found,) = reports.last
    assert (found.resource, found.action) == ("projects/acme/jobs/j", ComplianceFinding.REPORTED)
    assert (found.policy_etag, list(found.digests)) == ('"7"', [EU])
    assert things.out == []  # the policy only reports
    await watch.round()
    assert len(reports.requests) == 1  # nothing new
    await clock.advance(601)
    await watch.round()
    assert len(reports.requests) == 2  # somebody still looks
    things.all.clear()
    await watch.round()
    assert reports.last == []
    rule_by(compliance)
    await watch.round()
    await watch.round()
    assert len(reports.requests) == 3  # without policies nothing is told


async def test_a_remedy_is_taken_once_for_each_thing_and_only_where_enforced() -> None:
    compliance = governed()
    strict = policy("eu", ResidencyRule(), LicenseRule(allowed=["MIT"]), remedy=CompliancePolicy.QUARANTINE)
    rule_by(compliance, strict, data=DATA)
    things = Things(job("pools/us", principal=""))
    watch, reports, _ = watching(compliance, things)
    await watch.round()
    assert things.out == ["projects/acme/jobs/j"]
    assert {each.action for each in reports.last} == {ComplianceFinding.QUARANTINED}
    assert len(things.standing) == 2
    things.can_quarantine = False
    await watch.round()
    assert {each.action for each in reports.last} == {ComplianceFinding.REPORTED}


async def test_what_is_exempted_is_told_and_left_alone() -> None:
    compliance = governed(clock=ManualClock(datetime(2026, 5, 1, tzinfo=UTC)))
    kept = ComplianceExemption(name="compliancePolicies/eu/exemptions/e", resource="projects/acme")
    kept.expire_time.FromDatetime(datetime(2026, 6, 1, tzinfo=UTC))
    strict = policy("eu", ResidencyRule(), remedy=CompliancePolicy.QUARANTINE)
    rule_by(compliance, strict, data=DATA, exemptions=(kept,))
    things = Things(job("pools/us", principal=""))
    watch, reports, _ = watching(compliance, things)
    await watch.round()
    assert [(each.action, each.exemption) for each in reports.last] == [(ComplianceFinding.EXEMPTED, kept.name)]
    assert things.out == []


async def test_one_report_is_bounded_and_counts_the_rest() -> None:
    compliance = governed()
    rule_by(compliance, policy("eu", ResidencyRule()), data=DATA)
    things = Things(*(job("pools/us", job_id=f"j{number}", principal="") for number in range(507)))
    watch, reports, _ = watching(compliance, things)
    assert await watch.round() == 507
    assert (len(reports.last), reports.requests[-1].omitted) == (500, 7)


async def test_nothing_is_let_back_before_the_policies_are_known() -> None:
    things = Things(job("pools/us", principal=""))
    settled: list[str] = []

    async def settle(project: str, standing: Sequence[Violation]) -> None:
        settled.append(project)

    things.settle = settle  # type: ignore[method-assign]
    compliance = Compliance()
    watch, _, clock = watching(compliance, things)
    running = asyncio.create_task(watch.run())
    await clock.settle()
    assert settled == []
    rule_by(compliance)
    await clock.settle()
    assert settled == ["projects/acme"]  # control: a policy without rules lets all back
    running.cancel()


class Scheduler(SchedulerServiceServicer):
    """Streams what the test says."""

    def __init__(self, *rounds: Sequence[scheduler_pb.WatchPoolsResponse]) -> None:
        self.rounds = list(rounds)

    async def WatchPools(self, request: Any, context: Any) -> AsyncIterator[scheduler_pb.WatchPoolsResponse]:
        for each in self.rounds.pop(0):
            yield each


def changed(pool: str, **labels: str) -> scheduler_pb.WatchPoolsResponse:
    event = scheduler_pb.WatchPoolsResponse.CHANGED
    return scheduler_pb.WatchPoolsResponse(event=event, pool=Pool(name=f"pools/{pool}", labels=labels))


async def test_pools_are_followed_and_read_anew_when_the_stream_breaks() -> None:
    bookmark = scheduler_pb.WatchPoolsResponse(event=scheduler_pb.WatchPoolsResponse.BOOKMARK)
    gone = scheduler_pb.WatchPoolsResponse(event=scheduler_pb.WatchPoolsResponse.DELETED, pool=Pool(name="pools/b"))
    first = [changed("a", region="eu"), changed("b", region="us"), bookmark, gone, changed("a", region="us")]
    scheduler = Scheduler(first, [changed("c", region="eu")], [changed("d", region="eu"), bookmark])
    registration = (add_SchedulerServiceServicer_to_server, scheduler)
    async with serving(registration, name="scheduler") as mesh, mesh.peer("service/trainer") as peers:
        board = PoolBoard(peers.channel("scheduler"), ManualClock())
        heard: list[Any] = []
        board.on_change(lambda: heard.append(dict(board.labels or {})))
        assert board.labels is None
        while scheduler.rounds:
            await board._follow()
        assert heard == [
            {"pools/a": {"region": "eu"}, "pools/b": {"region": "us"}},
            {"pools/a": {"region": "eu"}},
            {"pools/a": {"region": "us"}},
            {"pools/d": {"region": "eu"}},  # the second stream broke before it had told all
        ]
