"""The load of all gateways together, as each publishes its own: what is not told is not taken for nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from lepton.internal.v1.gateway_load_pb2 import GatewayLoad, ModelLoad

MISSED_S: Final = 60.0
"""A gateway whose load is gone counts as silent for so long, then as taken down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What all gateways carry of one deployment."""

    in_flight: float = 0.0
    requests_per_s: float = 0.0
    held: int = 0
    is_complete: bool = True
    """Every gateway has told lately."""


@dataclass(slots=True, kw_only=True)
class _Told:
    """The last that a gateway said."""

    load: GatewayLoad
    at: float
    rates: Mapping[str, float]
    models: Mapping[str, ModelLoad]
    is_gone: bool = False


class LoadBoard:
    """Sums up what gateways tell; `silent_s`: after so long without a word one counts as silent."""

    def __init__(self, silent_s: float) -> None:
        self._silent_s = silent_s
        self._told: dict[str, _Told] = {}

    def hear(self, gateway: str, load: GatewayLoad, now: float) -> None:
        """A gateway has published its load."""
        models = {each.model: each for each in load.models}
        before = self._told.get(gateway)
        rates: dict[str, float] = {}
        if before is not None and load.is_fresh and now > before.at:
            for name, each in models.items():
                last = before.models[name].requests if name in before.models else 0
                # A gateway that has started anew counts from nothing.
                answered = each.requests - last if each.requests >= last else each.requests
                rates[name] = answered / (now - before.at)
        elif before is not None:
            rates = dict(before.rates)
        self._told[gateway] = _Told(load=load, at=now, rates=rates, models=models)

    def lose(self, gateway: str, now: float) -> None:
        """A gateway's load has vanished: its service has died, or was taken down."""
        told = self._told.get(gateway)
        if told is not None:
            told.at, told.is_gone = now, True

    def carried(self, model: str, now: float) -> Carried:
        """What all gateways carry of a deployment by its name in the requests."""
        self._forget(now)
        in_flight, rate, held, is_complete = 0.0, 0.0, 0, bool(self._told)
        for told in self._told.values():
            is_complete = is_complete and self._is_heard(told, now)
            each = told.models.get(model)
            if each is None:
                continue
            # Calls that are held are in flight too; of a deployment that never had a replica only the holder knows.
            in_flight += max(each.in_flight, each.held)
            rate += told.rates.get(model, 0.0)
            held += each.held
        return Carried(in_flight=in_flight, requests_per_s=rate, held=held, is_complete=is_complete)

    def _is_heard(self, told: _Told, now: float) -> bool:
        return told.load.is_fresh and not told.is_gone and now - told.at <= self._silent_s

    def _forget(self, now: float) -> None:
        gone = [name for name, told in self._told.items() if told.is_gone and now - told.at > MISSED_S]
        for name in gone:
            del self._told[name]
