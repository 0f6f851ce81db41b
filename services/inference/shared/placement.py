"""Which shared server should have which models; pure.

The rules follow ModelMesh: measured memory, least recently used first, failures bounded and forgotten after a while, no
turnover faster than a minimum age, a second copy by rate, and a new model that enters as long unused, so that many new
ones at once do not push out what is hot.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

NEW_IS_OLD_S: Final = 3600.0
"""A model that was never called counts as last used so long before it was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The rules' numbers."""

    max_servers: int = 4
    min_age_s: float = 60.0
    """A model stays at least so long where it was placed."""
    max_failures: int = 3
    """So many failures that are not forgotten, and it is not tried anywhere."""
    forget_failure_s: float = 900.0
    forget_failure_in_use_s: float = 450.0
    in_use_s: float = 1800.0
    """Called within this time, a model is in use."""
    copy_calls_per_minute: float = 2000.0
    """What one copy answers before there is another."""
    unknown_bytes: int = 192 << 20
    """What a model is taken to need before it was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that answers: where, and how much memory it has for models."""

    endpoint: str
    node: str
    capacity_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A model's place on a server, since when."""

    endpoint: str
    since_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failure to load."""

    endpoint: str
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model as far as placing it goes; times are seconds of one clock."""

    id: str
    name: str
    """The name it is served by: no server can have two models of one name."""
    wanted: bool
    last_use_s: float
    places: tuple[Place, ...] = ()
    failures: tuple[Failure, ...] = ()
    calls_per_minute: float = 0.0
    memory_bytes: int = 0
    """As measured; 0 = never."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The servers it has places on."""
        return tuple(place.endpoint for place in self.places)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to change: models that are not named stay as they are."""

    models: Mapping[str, Model] = field(default_factory=dict)
    """By id, every model whose places or wish to be loaded have changed."""
    waiting: Mapping[str, str] = field(default_factory=dict)
    """Why a model has no place that should have one."""
    servers: int = 0
    """How many servers there should be."""


def plan(models: Sequence[Model], servers: Sequence[Server], asked: int, now_s: float, limits: Limits) -> Plan:
    """The next places of all models. `asked` is how many servers were asked for; some may not answer yet.

    The same input gives the same plan, and a plan that was carried out gives an empty one.
    """
    if not models:
        return Plan()
    return _Planning(models, servers, now_s, limits).run(max(asked, 1))


def fresh(model: Model, now_s: float, limits: Limits) -> tuple[Failure, ...]:
    """The failures of a model that still count."""
    is_in_use = now_s - model.last_use_s < limits.in_use_s
    lifetime_s = limits.forget_failure_in_use_s if is_in_use else limits.forget_failure_s
    return tuple(failure for failure in model.failures if now_s - failure.at_s < lifetime_s)


class _Planning:
    """One round: the models as they will be, and what is free."""

    def __init__(self, models: Sequence[Model], servers: Sequence[Server], now_s: float, limits: Limits) -> None:
        self._before = {model.id: model for model in models}
        self._servers = {server.endpoint: server for server in servers}
        self._now_s, self._limits = now_s, limits
        self._models = {model.id: self._kept(model) for model in models}
        self._waiting: dict[str, str] = {}

    def run(self, asked: int) -> Plan:
        before: dict[str, Model] = {}
        while before != self._models:  # what made room for one may have left room for another; places only grow older
            before, self._waiting = dict(self._models), {}
            for copies in (1, len(self._servers)):  # nobody gets a second copy before everybody has a first
                for model in sorted(before.values(), key=lambda each: (-each.last_use_s, each.id)):
                    self._provide(model.id, copies)
        changed = {each: model for each, model in self._models.items() if model != self._before[each]}
        could_grow = self._waiting and len(self._servers) >= asked
        return Plan(
            models=changed,
            waiting=self._waiting,
            servers=min(asked + 1, self._limits.max_servers) if could_grow else min(asked, self._limits.max_servers),
        )

    def _kept(self, model: Model) -> Model:
        """A model with the places that it keeps, whatever else happens."""
        if not model.wanted:
            return replace(model, places=())
        failed = {failure.endpoint for failure in fresh(model, self._now_s, self._limits)}
        places = tuple(each for each in model.places if each.endpoint in self._servers and each.endpoint not in failed)
        return replace(model, places=places)

    def _provide(self, id_: str, most: int) -> None:
        model = self._models[id_]
        if not model.wanted:
            return
        failures = fresh(model, self._now_s, self._limits)
        if len(failures) >= self._limits.max_failures:
            if not model.places:
                self._waiting[id_] = f"it failed to load {len(failures)} times; it is tried again later"
            return
        copies = max(1, math.ceil(model.calls_per_minute / self._limits.copy_calls_per_minute))
        for number in range(len(model.places), max(1, min(copies, most))):
            target = self._target(self._models[id_], {each.endpoint for each in failures})
            if target is None and number == 0:
                target = self._make_room(self._models[id_], {each.endpoint for each in failures})
            if target is None:
                if number == 0:
                    self._waiting[id_] = self._why(model)
                return
            grown = (*self._models[id_].places, Place(endpoint=target, since_s=self._now_s))
            self._models[id_] = replace(self._models[id_], places=grown)

    def _target(self, model: Model, failed: set[str]) -> str | None:
        """The server with the most room, if the model fits anywhere; then the one with the fewest models."""
        fits = [each for each in self._candidates(model, failed) if self._free(each) >= self._size(model)]
        return min(fits, key=lambda each: (-self._free(each), len(self._on(each)), each), default=None)

    def _make_room(self, model: Model, failed: set[str]) -> str | None:
        """The server whose models were least recently used, less those that had to make room."""
        found: list[tuple[float, int, str, list[Model]]] = []
        for endpoint in self._candidates(model, failed):
            victims = self._victims(model, endpoint)
            if victims is not None:
                found.append((max(each.last_use_s for each in victims), len(victims), endpoint, victims))
        if not found:
            return None
        _, _, endpoint, victims = min(found, key=lambda each: each[:3])
        for victim in victims:
            left = tuple(place for place in victim.places if place.endpoint != endpoint)
            self._models[victim.id] = replace(victim, places=left, wanted=bool(left))
        return endpoint

    def _victims(self, model: Model, endpoint: str) -> list[Model] | None:
        """The models that have to go for this one to fit, least recently used first; None when that cannot be."""
        missing = self._size(model) - self._free(endpoint)
        victims = []
        for each in sorted(self._on(endpoint), key=lambda each: (len(each.places) < 2, each.last_use_s, each.id)):
            if missing <= 0:
                break
            since_s = next(place.since_s for place in each.places if place.endpoint == endpoint)
            is_cold = len(each.places) > 1 or each.last_use_s < model.last_use_s
            if is_cold and self._now_s - since_s >= self._limits.min_age_s:
                victims.append(each)
                missing -= self._size(each)
        return victims if missing <= 0 and victims else None

    def _candidates(self, model: Model, failed: set[str]) -> list[str]:
        return [
            endpoint
            for endpoint in self._servers
            if endpoint not in failed and all(each.name != model.name for each in self._on(endpoint))
        ]

    def _why(self, model: Model) -> str:
        largest = max((server.capacity_bytes for server in self._servers.values()), default=0)
        if not self._servers:
            return "no shared server answers yet"
        if self._size(model) > largest:
            return f"it takes {self._size(model) >> 20} MiB, a shared server has {largest >> 20} MiB"
        return "the shared servers are full of models that are in use, or were loaded a moment ago"

    def _on(self, endpoint: str) -> list[Model]:
        return [model for model in self._models.values() if endpoint in model.endpoints]

    def _free(self, endpoint: str) -> int:
        return self._servers[endpoint].capacity_bytes - sum(map(self._size, self._on(endpoint)))

    def _size(self, model: Model) -> int:
        return model.memory_bytes or self._limits.unknown_bytes
