"""What gateways carry together: sums, rates over restarts, and silence that is not taken for rest."""

from lepton.internal.v1.gateway_load_pb2 import GatewayLoad, ModelLoad
from services.inference.autoscaling.load_board import MISSED_S, LoadBoard

MODEL = "acme.digits"


def load(requests: int, in_flight: float = 0.0, held: int = 0, *, is_fresh: bool = True) -> GatewayLoad:
    each = ModelLoad(model=MODEL, requests=requests, in_flight=in_flight, held=held)
    return GatewayLoad(is_fresh=is_fresh, models=[each])


def test_several_gateways_are_added_up() -> None:
    board = LoadBoard(silent_s=4.0)
    board.hear("a", load(100, 2.0), 0.0)
    board.hear("b", load(1000, 3.0), 0.0)
    board.hear("a", load(120, 2.5), 2.0)
    board.hear("b", load(1010, 1.0), 2.0)
    carried = board.carried(MODEL, 2.0)
    assert (carried.in_flight, carried.requests_per_s, carried.is_complete) == (3.5, 15.0, True)
    assert board.carried("acme.other", 2.0).in_flight == 0


def test_a_gateway_that_started_anew_counts_from_nothing() -> None:
    board = LoadBoard(silent_s=4.0)
    board.hear("a", load(100), 0.0)
    board.hear("a", load(6), 2.0)
    assert board.carried(MODEL, 2.0).requests_per_s == 3.0


def test_without_any_gateway_nothing_is_known() -> None:
    assert not LoadBoard(silent_s=4.0).carried(MODEL, 0.0).is_complete


def test_a_gateway_that_cannot_be_asked_or_falls_silent_leaves_it_unknown() -> None:
    board = LoadBoard(silent_s=4.0)
    board.hear("a", load(100, 2.0), 0.0)
    assert board.carried(MODEL, 4.0).is_complete
    assert not board.carried(MODEL, 4.1).is_complete
    board.hear("a", load(100, 2.0, is_fresh=False), 5.0)
    assert not board.carried(MODEL, 5.0).is_complete
    board.hear("a", load(110, 2.0), 6.0)
    assert board.carried(MODEL, 6.0).is_complete


def test_a_gateway_that_vanished_is_missed_for_a_while_and_then_taken_for_gone() -> None:
    board = LoadBoard(silent_s=4.0)
    board.hear("a", load(100, 2.0), 0.0)
    board.hear("b", load(100, 5.0), 0.0)
    board.lose("b", 1.0)
    assert not board.carried(MODEL, 2.0).is_complete
    board.hear("a", load(100, 2.0), 2.0 + MISSED_S)
    carried = board.carried(MODEL, 2.0 + MISSED_S)
    assert (carried.is_complete, carried.in_flight) == (True, 2.0)


def test_calls_that_are_held_are_in_flight() -> None:
    board = LoadBoard(silent_s=4.0)
    board.hear("a", load(0, 0.0, held=7), 0.0)
    carried = board.carried(MODEL, 0.0)
    assert (carried.in_flight, carried.held) == (7.0, 7)
