"""The rank program of the built-in recipes: reads its spec, joins its gang, trains, leaves when all is committed."""

import sys

from lepton.errors import FailedPrecondition
from lepton.tracing import Value, parse, span, tracing
from lepton.train import EXIT_STOPPED, session
from services.trainer.worker.spec import TrainingSpec
from services.trainer.worker.training import train


def main() -> int:
    """Runs one rank to its end; the exit code is 0 when trained, EXIT_STOPPED when asked to stop and saved."""
    rank = session()
    place = rank.environment
    if place.spec is None:
        raise FailedPrecondition("RANK_ENVIRONMENT_INVALID", variable="LEPTON_SPEC", value="")
    spec = TrainingSpec.parse(place.spec.read_bytes())
    above = parse(place.traceparent)
    is_sampled = above is not None and above.is_sampled  # else no telemetry library is even touched
    facts: dict[str, Value] = {
        "lepton.rank": place.rank,
        "lepton.job": place.job,
        "lepton.generation": place.generation,
    }
    with (
        tracing("rank", otlp_endpoint=place.otlp_endpoint if is_sampled else "", attributes=facts),
        span("rank.train", parent=place.traceparent) as whole,
    ):
        whole.set("lepton.world_size", place.world_size)
        with span("rank.join"):
            rank.gang.join()
        is_finished = train(spec, rank)
        with span("rank.commit"):
            rank.reporter.drain()
        whole.set("lepton.finished", is_finished)
        rank.reporter.state("finished" if is_finished else "stopped")
    rank.gang.leave()
    return 0 if is_finished else EXIT_STOPPED


if __name__ == "__main__":
    sys.exit(main())
