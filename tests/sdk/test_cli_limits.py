"""`--max-rate` and its kin: what is typed, what stays as it is, and what is shown of it."""

from google.protobuf.duration_pb2 import Duration
from typer.testing import CliRunner

from lepton.cli.deployments import told
from lepton.cli.limit_options import LimitOptions, limit_lines
from lepton.cli.root import app
from lepton.inference.v1.call_limits_pb2 import CallLimits
from lepton.inference.v1.deployment_pb2 import Deployment

EVERYTHING = CallLimits(
    max_deadline=Duration(seconds=2),
    requests_per_second=500,
    requests_per_second_per_caller=2.5,
    burst=Duration(nanos=500_000_000),
    max_in_flight=64,
    max_stream=Duration(seconds=600),
)


def test_everything_that_can_be_typed() -> None:
    given = LimitOptions(
        max_rate=500, max_rate_per_caller=2.5, burst=0.5, max_in_flight=64, max_deadline=2, max_stream=600
    )
    assert given.are_given
    assert given.over(CallLimits()) == EVERYTHING
    rates = "500 calls/s, 2.5 calls/s of each caller, 64 calls at once"
    assert limit_lines(EVERYTHING) == [f"at most {rates}, bursts of 0.5 s, calls of 2 s, streams of 600 s"]


def test_what_is_not_given_stays_and_nothing_is_no_limit() -> None:
    assert not LimitOptions().are_given
    assert LimitOptions().over(EVERYTHING) == EVERYTHING
    assert LimitOptions(max_rate=9).over(EVERYTHING).max_in_flight == 64
    lifted = LimitOptions(
        max_rate=0, max_rate_per_caller=0, burst=0, max_in_flight=0, max_deadline=0, max_stream=0
    ).over(EVERYTHING)
    assert lifted == CallLimits()
    assert limit_lines(lifted) == []


def test_show_tells_what_is_the_matter_before_the_limits() -> None:
    message = "no calls are sent to it: projects/acme/models/net/versions/1 is quarantined (labels were swapped)"
    limits = CallLimits(max_in_flight=64)
    assert told(Deployment(message=message, limits=limits)) == [message, "at most 64 calls at once"]
    assert told(Deployment()) == []


def test_both_commands_teach_them_and_an_update_needs_something_to_do() -> None:
    wide = {"COLUMNS": "160", "TERM": "dumb"}
    for words in (["deploy"], ["deployments", "update"]):
        told = CliRunner().invoke(app, [*words, "--help"], env=wide).output
        assert "--max-rate-per-caller" in told
        assert "--max-in-flight 64" in told, "an example"
    for words in ([], ["--max-rate", "5", "--gate"]):
        refused = CliRunner().invoke(app, ["deployments", "update", "digits", *words], env=wide)
        assert (refused.exit_code, "say which MODEL" in refused.output) == (2, True)
