"""Exactness: whatever befalls a job, its committed history is that of the uninterrupted run, sample by sample."""

import asyncio
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, event, example, given, note, seed, settings
from hypothesis import strategies as st

from lepton.internal.v1.run_report_pb2 import CheckpointWritten
from lepton.names import JobName
from services.agent.launcher import LauncherClient
from services.trainer.runs import Runs
from tests.harness.elastic_job import ElasticJob, End, Plan, Told, Turn, uninterrupted
from tests.harness.exactness import Inexact, check, losses
from tests.harness.seeds import some_seed

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SEED = some_seed()
MOST_RANKS = 6


class Stage:
    """One launcher for all plays of the module, and the uninterrupted runs that they are compared with."""

    def __init__(self, runner: asyncio.Runner, launcher: LauncherClient, folder: Path) -> None:
        self._runner, self._launcher, self._folder = runner, launcher, folder
        self._numbers = itertools.count()
        self._references: dict[Plan, Told] = {}

    def play(self, plan: Plan, *, runs: type[Runs] = Runs, resumes_older: bool = False) -> Told:
        """How the job went."""
        folder = self._folder / str(next(self._numbers))
        job = ElasticJob(self._launcher, folder, plan, runs=runs, resumes_older=resumes_older)
        return self._runner.run(job.play())

    def reference(self, plan: Plan) -> Told:
        """The uninterrupted run to compare with: of as many ranks, where they were always as many."""
        wanted = uninterrupted(plan, plan.last if plan.is_steady else 2)
        if wanted not in self._references:
            self._references[wanted] = self.play(wanted)
        return self._references[wanted]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    print(f"LEPTON_SEED={SEED}")
    with asyncio.Runner() as runner:
        launcher = LauncherClient(os.environ)
        runner.run(launcher.__aenter__())
        try:
            runner.run(launcher.ready())
            yield Stage(runner, launcher, tmp_path_factory.mktemp("plays"))
        finally:
            runner.run(launcher.__aexit__(None, None, None))


def turns(ranks: st.SearchStrategy[int]) -> st.SearchStrategy[list[Turn]]:
    turn = st.builds(
        Turn,
        ranks=ranks,
        end=st.sampled_from(End),
        after=st.integers(1, 9),
        victim=st.integers(0, MOST_RANKS - 1),
    )
    return st.lists(turn, min_size=1, max_size=5)


def plans() -> st.SearchStrategy[Plan]:
    """Joins and leaves (other numbers of ranks), kills, preemptions and cut-off nodes, over all kinds of batches."""

    def of(ranks: st.SearchStrategy[int]) -> st.SearchStrategy[Plan]:
        return st.builds(
            Plan,
            turns=turns(ranks).map(tuple),
            last=ranks,
            samples=st.integers(24, 97),
            batch=st.integers(4, 24),
            epochs=st.integers(1, 3),
            every=st.integers(1, 6),
        )

    return st.one_of(of(st.integers(2, MOST_RANKS)), st.integers(2, 4).flatmap(lambda ranks: of(st.just(ranks))))


EVERYTHING = Plan(
    turns=(
        Turn(ranks=4, end=End.KILL, after=6, victim=2),
        Turn(ranks=3, end=End.CUT, after=2),
        Turn(ranks=5, end=End.KILL_BEFORE_COMMIT, after=1),
        Turn(ranks=2, end=End.PREEMPT, after=3),
        Turn(ranks=2, end=End.KILL_AFTER_COMMIT, after=1),
    ),
    last=4,
)
STEADY = Plan(turns=(Turn(ranks=3, end=End.KILL, after=5, victim=1), Turn(ranks=3, end=End.PREEMPT, after=3)), last=3)


def verify(stage: Stage, plan: Plan) -> None:
    told = stage.play(plan)
    note(f"opened {told.resumed}, counted {[each[:2] for each in told.accepted]}, refused {told.refused}")
    check(told, stage.reference(plan))
    event(f"generations: {len(told.generations)}")


@settings(
    max_examples=2, deadline=None, database=None, print_blob=True, phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@seed(SEED)
@example(plan=EVERYTHING)
@example(plan=STEADY)
@given(plan=plans())
def test_a_job_is_exact_whatever_befalls_it(stage: Stage, plan: Plan) -> None:
    verify(stage, plan)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(
    max_examples=int(os.environ.get("LEPTON_SCHEDULES", "150")), deadline=None, database=None, print_blob=True,
    phases=(Phase.generate,), suppress_health_check=list(HealthCheck),
)  # fmt: skip
@seed(SEED)
@given(plan=plans())
def test_jobs_are_exact_under_many_schedules(stage: Stage, plan: Plan) -> None:
    verify(stage, plan)


def test_the_loss_curve_has_every_step_once(stage: Stage) -> None:
    curve = losses(stage.play(EVERYTHING))
    assert sorted(curve) == list(range(1, 1 + 3 * 8))


def test_those_who_were_cut_off_commit_nothing(stage: Stage) -> None:
    told = stage.play(Plan(turns=(Turn(ranks=2, end=End.CUT, after=2),)))
    assert set(told.refused) == {(1, "GENERATION_STALE")}  # a second one, where the first refusal comes late
    assert {generation for generation, _, _ in told.accepted} == {2}


# What the checks are worth: each of these mistakes must be found.

KILLED = Plan(turns=(Turn(ranks=2, end=End.KILL_AFTER_COMMIT, after=1),))


def test_a_sampler_that_restarts_the_epoch_is_found(stage: Stage) -> None:
    plan = Plan(turns=KILLED.turns, fault="restart-epoch")
    with pytest.raises(Inexact, match="times"):
        check(stage.play(plan), stage.reference(plan))


def test_a_run_that_resumes_from_the_wrong_checkpoint_is_found(stage: Stage) -> None:
    plan = Plan(turns=(Turn(ranks=2, end=End.KILL_AFTER_COMMIT, after=3),))
    with pytest.raises(Inexact, match="times"):
        check(stage.play(plan, resumes_older=True), stage.reference(plan))


class UnfencedRuns(Runs):
    """A trainer that takes the commits of any generation."""

    async def commit_checkpoint(self, name: JobName, generation: int, written: CheckpointWritten) -> None:
        await super().commit_checkpoint(name, (await self._jobs.get(name)).generation, written)


def test_a_trainer_that_takes_the_commits_of_a_fenced_generation_is_found(stage: Stage) -> None:
    plan = Plan(turns=(Turn(ranks=2, end=End.CUT, after=2),))
    told = stage.play(plan, runs=UnfencedRuns)
    assert told.refused == []
    with pytest.raises(Inexact, match="times"):
        check(told, stage.reference(plan))
