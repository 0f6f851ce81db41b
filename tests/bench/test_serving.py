"""What `bench.serving` makes of what h2load says, and of the rounds."""

import math
from pathlib import Path

import pytest

from bench.peers import environments
from bench.serving import _compared
from bench.serving_contenders import PEERS
from bench.serving_load import _parsed, shape

SAID = """
finished in 2.00s, 5000.50 req/s, 1.00MB/s
requests: 10001 total, 10001 started, 10001 done, {succeeded} succeeded, {failed} failed, 0 errored, 0 timeout
traffic: 2.23MB (2338210) total, 27.15KB (27804) headers (space savings 96.26%), 820.40KB ({data}) data
"""


def said(*, failed: int = 0, data: int = 10_001 * 84) -> str:
    return SAID.format(succeeded=10_001 - failed, failed=failed, data=data)


def test_a_load_is_read_and_its_answers_are_counted_by_their_bytes() -> None:
    load = _parsed(said(), [100] * 98 + [900, 1000])
    assert (load.rate, load.done, load.failed, load.p50_us, load.p99_us) == (5000.5, 10_001, 0, 100, 1000)
    assert load.are_answers(84)
    assert not load.are_answers(85)


def test_refused_calls_are_no_answers_though_http_calls_them_good() -> None:
    """A gRPC call that is refused has HTTP status 200 and no body."""
    assert not _parsed(said(data=10_000 * 84), []).are_answers(84)
    assert not _parsed(said(failed=1), []).are_answers(84)
    assert _parsed(said(data=10_001 * 86), []).are_answers(84, slack=0.03)
    assert math.isnan(_parsed(said(), []).p50_us)


def test_what_h2load_never_says_is_an_error() -> None:
    with pytest.raises(ValueError, match="something else"):
        _parsed("no such host", [])


@pytest.mark.parametrize("concurrency", [1, 2, 16, 64])
def test_calls_at_once_are_as_many_as_asked_for(concurrency: int) -> None:
    for is_http1 in (False, True):
        connections, streams = shape(concurrency, is_http1)
        assert connections * streams == concurrency
    assert shape(64, False) == (8, 8)
    assert shape(64, True) == (64, 1)


def test_every_peer_is_met_at_its_better_setting_of_the_same_round() -> None:
    def figures(rate: float) -> dict[int, dict[str, float]]:
        return {16: {"rate": rate}}

    rounds = [
        {
            "lepton (batching)": figures(ours),
            "ray": figures(ray),
            "ray (batching)": figures(better),
            "kserve": figures(10),
        }
        for ours, ray, better in ((100, 20, 50), (90, 45, 30), (80, 20, 20))
    ]
    found = _compared(rounds, 16)
    assert found["lepton_over_peer"] == {"ray": 2.0, "kserve": 9.0}
    assert found["lepton_over_best"] == 2.0
    assert found["servers"]["ray"] == {"rate": 20}


def test_every_peer_has_its_pins() -> None:
    assert all(environments.version(peer) for peer in PEERS)


def test_an_environment_counts_only_when_it_was_made_from_these_pins(tmp_path: Path) -> None:

    (tmp_path / "ray" / "bin").mkdir(parents=True)
    assert environments.found("ray", tmp_path) is None
    (tmp_path / "ray" / ".made-from").write_text("other pins")
    assert environments.found("ray", tmp_path) is None
