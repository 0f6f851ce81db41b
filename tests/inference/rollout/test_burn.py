"""When a new revision is taken back for what it does to real calls, from loads made by hand."""

from google.protobuf.duration_pb2 import Duration

from lepton.inference.v1.rollout_pb2 import RollbackPolicy
from services.inference.envoy.load import Bucket, Load
from services.inference.rollout.burn import Sample, harm

POLICY = RollbackPolicy(window=Duration(seconds=60))
OLD, NEW = 1, 2


class Traffic:
    """Loads that grow second by second."""

    def __init__(self) -> None:
        self.samples = [Sample(at_s=0.0, loads={})]
        self.counts = {OLD: [0, 0], NEW: [0, 0]}
        self.times: dict[int, dict[float, int]] = {OLD: {}, NEW: {}}

    def run(
        self, seconds: int, *, rate: int = 10, errors: float = 0.0, new_ms: float = 4, old_ms: float = 4
    ) -> "Traffic":
        for _ in range(seconds):
            for revision, lower in ((OLD, old_ms), (NEW, new_ms)):
                self.counts[revision][0] += rate
                self.times[revision][lower] = self.times[revision].get(lower, 0) + rate
            self.counts[NEW][1] += round(rate * errors)
            loads = {
                revision: Load(
                    requests=self.counts[revision][0],
                    errors=self.counts[revision][1],
                    latencies=tuple(
                        Bucket(lower_ms=lower, upper_ms=lower + 1, count=count)
                        for lower, count in sorted(self.times[revision].items())
                    ),
                )
                for revision in (OLD, NEW)
            }
            self.samples.append(Sample(at_s=self.samples[-1].at_s + 1, loads=loads))
        return self

    def harm(self, policy: RollbackPolicy = POLICY) -> str:
        return harm(self.samples, OLD, NEW, policy)


def test_traffic_without_trouble_does_no_harm() -> None:
    assert Traffic().run(120).harm() == ""


def test_errors_beyond_those_of_the_old_one_do() -> None:
    assert "failed" in Traffic().run(60, errors=0.5).harm()
    assert Traffic().run(60, errors=0.5).harm(RollbackPolicy(disabled=True)) == ""
    assert Traffic().run(60, errors=0.5).harm(RollbackPolicy(max_error_ratio=0.6)) == ""


def test_latency_far_beyond_the_old_ones_does() -> None:
    assert "90th percentile" in Traffic().run(60, new_ms=100).harm()
    assert Traffic().run(60, new_ms=100, old_ms=90).harm() == "", "both are slow: it is the machine"
    assert Traffic().run(60, new_ms=8).harm() == "", "twice as slow, but not to be felt"


def test_a_blip_and_what_is_over_do_not() -> None:
    assert Traffic().run(600).run(2, errors=0.2).harm() == "", "too short for the long window"
    assert Traffic().run(60, errors=0.5).run(11).harm() == "", "over for the short window"
    assert Traffic().run(600).run(20, errors=0.5).harm() != "", "long enough, and going on"


def test_few_calls_say_nothing() -> None:
    assert Traffic().run(60, rate=1, errors=1).harm() == ""
    assert Traffic().run(60, rate=1, errors=1).harm(RollbackPolicy(min_calls=5)) != ""


def test_a_gateway_that_was_started_anew_is_no_harm() -> None:
    traffic = Traffic().run(100, errors=0.0)
    fresh = Traffic().run(30)
    traffic.samples += [Sample(at_s=100 + each.at_s, loads=each.loads) for each in fresh.samples[1:]]
    assert traffic.harm() == ""
