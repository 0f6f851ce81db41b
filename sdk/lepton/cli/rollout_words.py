"""A rollout in words: where it stands, who gets the calls, and what its comparisons have found."""

from collections.abc import Iterator

from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.rollout_pb2 import GateVerdict, RolloutStatus


def lines(deployment: Deployment) -> Iterator[str]:
    """The state in one line, then one for each revision with replicas, then the comparisons."""
    status = deployment.rollout
    yield f"{RolloutStatus.State.Name(status.state)}  {status.message}".rstrip()
    ready = {each.revision: 0 for each in status.targets}
    for replica in deployment.replica_states:
        ready[replica.revision] = ready.get(replica.revision, 0) + replica.is_ready
    for target in status.targets:
        role = {status.stable_revision: "stable", status.candidate_revision: "new"}.get(target.revision, "leaving")
        yield f"  revision {target.revision} ({role}): {target.weight} % of the calls, {ready[target.revision]} ready"
    for verdict in status.verdicts:
        yield from verdict_lines(verdict)


def verdict_lines(verdict: GateVerdict) -> Iterator[str]:
    """What one comparison has found, a line for each check."""
    over = f"{verdict.golden_rows} golden rows, {verdict.live_requests} live requests"
    outcome = GateVerdict.Outcome.Name(verdict.outcome)
    revisions = f"revision {verdict.candidate_revision} against {verdict.stable_revision}"
    yield f"  {outcome} at step {verdict.step + 1}: {revisions} on {over}"
    for check in verdict.checks:
        yield f"    {'ok  ' if check.passed else 'FAIL'}  {check.message}"
