"""The rank program of the built-in recipes: reads its spec, joins its gang, trains, leaves when all is committed."""

import sys

from lepton.tracing import Value, span
from lepton.train import EXIT_STOPPED, session
from lepton.train.traced import traced
from services.trainer.worker.spec import TrainingSpec
from services.trainer.worker.training import train


def main() -> int:
    """Runs one rank to its end; the exit code is 0 when trained, EXIT_STOPPED when asked to stop and saved."""
    rank = session()
    place = rank.environment
    spec = TrainingSpec.parse(place.read_spec())
    facts: dict[str, Value] = {
        "lepton.rank": place.rank,
        "lepton.job": place.job,
        "lepton.generation": place.generation,
    }
    with traced(place, "rank", "rank.train", facts) as whole:
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
