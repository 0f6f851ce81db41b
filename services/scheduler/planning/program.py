"""The linear program of an allocation, and its solution by HiGHS, one objective after the other.

Indices: demand d, source s, resource r; a[d,r] is the amount wanted, n[s] * c[s,r] the capacity, p[s,r] the price.

    x[d,s]    the share of d that s gives, all its resources in the same proportion
    y[d,s,r]  the share of d's r that s gives apart from the others        (elastic program only)
    u[d]      the share of d that nobody gives, t the largest of them      (elastic program only)

    for every d, r:  sum_s x[d,s] + sum_s y[d,s,r] + u[d] = 1
    for every s, r:  sum_d a[d,r] (x[d,s] + y[d,s,r]) <= n[s] c[s,r]
    for every d:     u[d] <= t,  and 0 <= x, y, u <= 1

The rigid program minimises the price. The elastic one minimises, in this order, the sum of u, then t, then what is
split, then the price; each minimum is a constraint of what follows. Shares and rows are scaled to 1, so that cores and
bytes may stand in one program.
"""

from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array, vstack

from lepton.errors import InvalidArgument
from services.scheduler.planning.demand import Demand, Source

LIMIT: Final = 100_000  # variables; about five seconds
TIME_LIMIT_S: Final = 20.0
_LEAST: Final = 1e-9  # a smaller share is none: HiGHS leaves such coefficients out
_SLACK: Final = 1e-12
_METHODS: Final = ("highs-ipm", "highs-ds")  # the first is ten times as fast, the second finds its way everywhere
_OPTIMAL, _TIMED_OUT, _INFEASIBLE = 0, 1, 2

Pair = tuple[int, int]
Vector = Any  # numpy's arrays and scipy's are untyped here


class Program:
    """The program of these demands and sources; an elastic one always has a solution."""

    def __init__(self, demands: Sequence[Demand], sources: Sequence[Source], *, is_elastic: bool) -> None:
        self.demands, self.sources, self.is_elastic = demands, sources, is_elastic
        reach = {
            (d, s): _within_reach(each, source) for d, each in enumerate(demands) for s, source in enumerate(sources)
        }
        self.whole = [(d, s) for (d, s), found in reach.items() if len(found) == len(demands[d].amounts)]
        self.parts: list[tuple[int, int, str]] = []
        if is_elastic:
            parted = [(pair, found) for pair, found in reach.items() if len(demands[pair[0]].amounts) > 1]
            self.parts = [(d, s, resource) for (d, s), found in parted for resource in found]
        self._short = len(self.whole) + len(self.parts)  # where u begins; t comes last
        self.size = self._short + (len(demands) + 1 if is_elastic else 0)
        if self.size > LIMIT:
            raise InvalidArgument("PLAN_TOO_LARGE", variables=str(self.size), limit=str(LIMIT))
        self._build()

    def solve(self) -> Vector | None:
        """The optimum: a value for every variable; None when there is none."""
        if not self.size:
            return None
        until = monotonic() + TIME_LIMIT_S
        best: Vector | None = None
        reached: list[Vector] = []
        bounds = list(self._bounds)
        for objective in self._objectives():
            found = self._minimise(objective, bounds, reached, until)
            if found is None:
                break  # later objectives only choose among plans that are equally good so far
            best = found
            reached.append(objective)
            bounds.append(float(objective @ best) + _SLACK)
        return best

    def shortfall(self, solution: Vector) -> Vector:
        """u, by demand."""
        if not self.is_elastic:
            return np.zeros(len(self.demands))
        return solution[self._short : self._short + len(self.demands)]

    def _build(self) -> None:
        row_of: dict[tuple[int, str], int] = {}
        for d, demand in enumerate(self.demands):
            for resource in demand.amounts:
                row_of[d, resource] = len(row_of)
        room_of: dict[tuple[int, str], int] = {}
        met, used = _Entries(), _Entries()

        def give(column: int, d: int, s: int, resource: str) -> None:
            met.add(row_of[d, resource], column, 1.0)
            room = room_of.setdefault((s, resource), len(room_of))
            used.add(room, column, self.demands[d].amounts[resource] / self.sources[s].total(resource))

        for column, (d, s) in enumerate(self.whole):
            for resource in self.demands[d].amounts:
                give(column, d, s, resource)
        for column, (d, s, resource) in enumerate(self.parts, start=len(self.whole)):
            give(column, d, s, resource)
        rooms = len(room_of)
        if self.is_elastic:
            for (d, _), row in row_of.items():
                met.add(row, self._short + d, 1.0)
            for d in range(len(self.demands)):
                used.add(rooms + d, self._short + d, 1.0)
                used.add(rooms + d, self.size - 1, -1.0)
        worst = len(self.demands) if self.is_elastic else 0
        self._met = met.matrix(len(row_of), self.size)
        self._limits = used.matrix(rooms + worst, self.size)
        self._bounds = [*[1.0] * rooms, *[0.0] * worst]

    def _objectives(self) -> list[Vector]:
        price = np.zeros(self.size)
        for column, (d, s) in enumerate(self.whole):
            amounts = self.demands[d].amounts
            price[column] = sum(self.sources[s].price_of(resource) * amount for resource, amount in amounts.items())
        for column, (d, s, resource) in enumerate(self.parts, start=len(self.whole)):
            price[column] = self.sources[s].price_of(resource) * self.demands[d].amounts[resource]
        price /= max(1e-300, price.max(initial=0.0))
        if not self.is_elastic:
            return [price]
        short, worst, split = np.zeros(self.size), np.zeros(self.size), np.zeros(self.size)
        short[self._short : -1] = 1.0
        worst[-1] = 1.0
        for column, (d, _, _) in enumerate(self.parts, start=len(self.whole)):
            split[column] = 1.0 / len(self.demands[d].amounts)
        return [short, worst, split, price] if self.parts else [short, worst, price]

    def _minimise(
        self, objective: Vector, bounds: Sequence[float], extra: Sequence[Vector], until: float
    ) -> Vector | None:
        limits = vstack([self._limits, csr_array(np.array(extra))]) if extra else self._limits
        for method in _METHODS:
            outcome = linprog(
                objective,
                A_ub=limits,
                b_ub=bounds,
                A_eq=self._met,
                b_eq=np.ones(self._met.shape[0]),
                bounds=(0.0, 1.0),
                method=method,
                options={"time_limit": max(0.1, until - monotonic())},
            )
            if outcome.status == _OPTIMAL:
                return outcome.x
            if outcome.status == _TIMED_OUT:
                raise InvalidArgument("PLAN_TOO_LARGE", variables=str(self.size), limit=str(LIMIT))
            if outcome.status == _INFEASIBLE:
                return None
        return None


class _Entries:
    """The entries of a sparse matrix, collected."""

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._columns: list[int] = []
        self._values: list[float] = []

    def add(self, row: int, column: int, value: float) -> None:
        """One entry."""
        self._rows.append(row)
        self._columns.append(column)
        self._values.append(value)

    def matrix(self, rows: int, columns: int) -> Vector:
        """The matrix."""
        return csr_array((self._values, (self._rows, self._columns)), shape=(rows, columns))


def _within_reach(demand: Demand, source: Source) -> list[str]:
    """The resources of a demand that a source may give."""
    if not demand.allows(source):
        return []
    return [resource for resource, amount in demand.amounts.items() if source.total(resource) > _LEAST * amount]
