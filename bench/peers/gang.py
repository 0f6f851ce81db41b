"""A gang of two actors on Ray: `PYTHON gang.py ROUNDS`, with a Python that has ray; the seconds until both answer.

Nothing of training is in it: no torch, no process group, no step.
"""

import json
import sys
import time


def main() -> None:
    """Starts the gang again and again on a cluster that is up."""
    import ray  # type: ignore[import-not-found]

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")

    @ray.remote(num_cpus=1)
    class Member:
        def rank(self, number: int) -> int:
            return number

    took = []
    for _ in range(int(sys.argv[1]) + 1):
        began = time.monotonic()
        gang = [Member.remote() for _ in range(2)]  # type: ignore[attr-defined]  # what ray makes of it
        assert ray.get([member.rank.remote(at) for at, member in enumerate(gang)]) == [0, 1]
        took.append(time.monotonic() - began)
        for member in gang:
            ray.kill(member)
    print(json.dumps({"version": ray.__version__, "first_s": took[0], "gang_s": took[1:]}))


if __name__ == "__main__":
    main()
