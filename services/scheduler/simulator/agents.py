"""The agents of all nodes: they start and stop slices as the records say, and report; here the work is done."""

from dataclasses import replace

from services.scheduler.lifecycle import ENDED, FINAL
from services.scheduler.planner.decision import Decision, Revocation
from services.scheduler.simulator.cluster import Cluster
from services.scheduler.simulator.costs import Costs
from services.scheduler.simulator.event import Agenda, Event, What
from services.scheduler.simulator.job import Job
from services.scheduler.simulator.progress import Progress
from services.scheduler.simulator.world import World
from services.scheduler.snapshot import Assignment, Kind, SliceState


class Agents:
    """What happens on the machines."""

    def __init__(self, world: World, cluster: Cluster, agenda: Agenda, costs: Costs) -> None:
        self.progress: dict[str, Progress] = {}
        self.waiting = 0  # workloads without a place
        self._world = world
        self._cluster = cluster
        self._agenda = agenda
        self._costs = costs

    def submit(self, job: Job, now: float) -> None:
        """A job comes."""
        if job.name in self.progress:
            raise ValueError(f"{job.name} is submitted twice")
        self.progress[job.name] = Progress.of(job)
        self._world.submit(job.workload, now)
        self.waiting += 1

    def lose(self, node: str, now: float) -> None:
        """A node vanishes with all that runs on it; a gang stands still until the planner has noticed."""
        self._world.leave(node, now)
        for each in self._cluster.leave(node):
            progress = self.progress[each.workload]
            is_gang = progress.job.workload.kind is Kind.TRAINING
            self._go(progress, 0 if is_gang else max(0, progress.slices - 1), now)

    def happen(self, event: Event, now: float) -> bool:
        """One of their own events; whether the planner should look."""
        progress = self.progress[event.workload]
        if event.what is What.STOPPED:
            self._stopped(event.workload, event.generation, now)
            return True
        if event.epoch != progress.epoch:
            return False  # something else has happened to it since
        if event.what is What.UP:
            self._up(progress, event.generation, now)
            return True
        if event.what is What.CHECKPOINT:
            progress.save(now)
            self._world.saved(event.workload, now)
            self._agenda.add(replace(event, at=now + self._costs.checkpoint_every_s))
            return False
        assert event.what is What.END
        self._finish(progress, now)
        return True

    def carry_out(self, decision: Decision, now: float) -> None:
        """Write a decision, then do what it says: stop first, start afterwards."""
        progress = self.progress[decision.workload]
        placement = decision.placement
        kept = placement.kept if placement else frozenset[int]()
        delay_s = 0.0 if placement is None else self._delay_s(progress, bool(kept))
        self._world.carry_out(decision, now, SliceState.ASSIGNED if delay_s else SliceState.RUNNING)
        for generation in decision.retire:
            if left := self._cluster.indices(decision.workload, generation):
                raise ValueError(f"generation {generation} of {decision.workload} is forgotten; slices {left} run")
        for index in sorted(kept):
            self._cluster.relabel(decision.workload, decision.generation, index)
        for revocation in decision.revoke:
            self._revoke(progress, revocation, bool(kept), now)
        if placement is not None:
            self._place(progress, self._world.assignments[decision.workload][-1], delay_s, now)
        if decision.state in ENDED:
            progress.outcome = decision.state
            progress.go(now, 0)
            self.waiting -= progress.waiting_since is not None

    def _delay_s(self, progress: Progress, is_repair: bool) -> float:
        is_again = progress.starts > 0 and not is_repair
        return self._costs.start_s + (self._costs.restart_s if is_again else 0.0)

    def _revoke(self, progress: Progress, revocation: Revocation, is_repair: bool, now: float) -> None:
        """Stop a generation, or what of it has not been handed on; with enough grace its work is saved first."""
        name = progress.job.name
        progress.revoked.append(revocation.reason)
        if is_repair:
            self._stopped(name, revocation.generation, now)
            return
        # A gang that is not wholly up cannot write a checkpoint.
        is_whole = progress.rate > 0 and revocation.grace_s >= self._costs.checkpoint_s
        progress.advance(now)
        if is_whole:
            progress.save(now)
            self._world.saved(name, now)
        else:
            progress.fall_back(now)
        progress.go(now, 0)
        if progress.ended_at is None and progress.waiting_since is None:
            progress.displace(now)
            self.waiting += 1
        if is_whole and self._costs.checkpoint_s:
            stopped_at = now + self._costs.checkpoint_s
            self._agenda.add(Event(at=stopped_at, what=What.STOPPED, workload=name, generation=revocation.generation))
        else:
            self._stopped(name, revocation.generation, now)

    def _stopped(self, name: str, generation: int, now: float) -> None:
        indices = self._cluster.indices(name, generation)
        for index in indices:
            self._cluster.stop(name, generation, index)
        if name in self._world.assignments:
            self._world.report(name, generation, indices, SliceState.STOPPED)

    def _place(self, progress: Progress, assignment: Assignment, delay_s: float, now: float) -> None:
        for each in assignment.slices:
            if each.index not in assignment.kept and each.state not in FINAL:
                demand = assignment.groups[each.group].demand
                self._cluster.start(assignment.workload, assignment.generation, each, demand)
        if progress.waiting_since is not None:
            progress.place(now)
            self.waiting -= 1
        if delay_s:
            # Independent slices that are there already go on meanwhile.
            up = sum(each.index in assignment.kept and each.state not in FINAL for each in assignment.slices)
            self._go(progress, up, now)
            self._agenda.add(
                Event(
                    at=now + delay_s,
                    what=What.UP,
                    workload=assignment.workload,
                    generation=assignment.generation,
                    epoch=progress.epoch,
                )
            )
        else:
            self._up(progress, assignment.generation, now, is_reported=True)

    def _up(self, progress: Progress, generation: int, now: float, *, is_reported: bool = False) -> None:
        """All slices of a generation that are on machines work."""
        name = progress.job.name
        indices = self._cluster.indices(name, generation)
        if not is_reported:
            self._world.report(name, generation, indices, SliceState.RUNNING)
        self._go(progress, len(indices), now)
        if any(group.min_count != group.max_count for group in progress.job.workload.groups):
            self._world.measured(name, len(indices), progress.job.scaling.throughput(len(indices)))

    def _go(self, progress: Progress, slices: int, now: float) -> None:
        """Go on with so many slices, until it is done or something else happens."""
        done_at = progress.go(now, slices)
        if done_at is None or progress.ended_at is not None:
            return
        name, every_s = progress.job.name, self._costs.checkpoint_every_s
        self._agenda.add(Event(at=done_at, what=What.END, workload=name, epoch=progress.epoch))
        if every_s and now + every_s < done_at:
            self._agenda.add(Event(at=now + every_s, what=What.CHECKPOINT, workload=name, epoch=progress.epoch))

    def _finish(self, progress: Progress, now: float) -> None:
        """All work is done: slices succeed by themselves; a service is cancelled by its owner."""
        progress.finish(now)
        name = progress.job.name
        if progress.job.workload.kind is Kind.SERVING:
            self._world.cancel(name)
            return
        generation = self._world.assignments[name][-1].generation
        indices = self._cluster.indices(name, generation)
        for index in indices:
            self._cluster.stop(name, generation, index)
        self._world.report(name, generation, indices, SliceState.SUCCEEDED)
