"""The cheapest allocation of demands to sources, as a linear program; or the nearest one, and what stands in the way.

How the model is read. It is written down as: minimise the sum of c_i subject to c_i >= C_task / N and
s_i >= S_task / N. Meant is: the task's compute and storage are spread evenly over the N machines that serve it, no
machine gives more than it has, and of all such plans the cheapest is taken. Here N is a source's number of machines,
every demand chooses its share of every source, and what a source gives is spread evenly over its machines.
"""

from collections.abc import Sequence
from typing import Any, Final

from services.scheduler.planning.demand import Allocation, Demand, Grant, Source
from services.scheduler.planning.program import Program
from services.scheduler.planning.shortage import amount, shortages

_TRACE: Final = 1e-7  # of a demand: a smaller share is none
_NOISE: Final = 1e-9  # relative: the solver's last digits


def allocate(demands: Sequence[Demand], sources: Sequence[Source]) -> Allocation:
    """The cheapest plan; equal for equal questions, in whatever order they list things.

    Every demand takes its resources from a source in proportion, so that its cores lie beside its data, unless it can
    only be met apart. When not all can be met, the plan is the one with the least total shortfall, each demand's
    measured relative to itself; among equals that whose largest is least, then that which splits least, then the
    cheapest.
    """
    demands = sorted(demands, key=lambda each: each.name)
    sources = sorted(sources, key=lambda each: each.name)
    program = Program(demands, sources, is_elastic=False)
    solution = program.solve()
    if solution is not None:
        return _allocation(program, solution, ())
    program = Program(demands, sources, is_elastic=True)
    solution = program.solve()
    assert solution is not None, "to give nothing is always possible"
    short = program.shortfall(solution)
    if short.max() <= _TRACE:
        return _allocation(program, solution, ())
    violated = tuple(str(each) for each in shortages(demands, sources)) or _unmet(demands, short)
    return _allocation(program, solution, violated)


def _allocation(program: Program, solution: Any, violated: tuple[str, ...]) -> Allocation:
    given: dict[tuple[int, int], dict[str, float]] = {}
    demands, sources = program.demands, program.sources
    columns = [(d, s, tuple(demands[d].amounts)) for d, s in program.whole]
    columns += [(d, s, (resource,)) for d, s, resource in program.parts]
    for (d, s, resources), share in zip(columns, solution, strict=False):
        if share <= _TRACE:
            continue
        mine = given.setdefault((d, s), {})
        for resource in resources:
            mine[resource] = mine.get(resource, 0.0) + float(share)
    grants = tuple(_grant(demands[d], sources[s], shares) for (d, s), shares in sorted(given.items()))
    price = {each.name: each for each in sources}
    cost = sum(
        price[each.source].price_of(resource) * value for each in grants for resource, value in each.amounts.items()
    )
    return Allocation(grants=grants, cost=float(f"{cost:.15g}"), violated=violated)


def _grant(demand: Demand, source: Source, shares: dict[str, float]) -> Grant:
    amounts = {resource: _part(share, demand.amounts[resource]) for resource, share in sorted(shares.items())}
    return Grant(
        demand=demand.name,
        source=source.name,
        amounts=amounts,
        per_node={resource: value / source.nodes for resource, value in amounts.items()},
    )


def _part(share: float, whole: float) -> float:
    """A share of an amount: all of it, or the shortest number that the solver's noise cannot be told from."""
    if share >= 1 - _NOISE:
        return whole
    exact = share * whole
    for digits in range(1, 15):
        if abs((short := float(f"{exact:.{digits}g}")) - exact) <= _NOISE * exact:
            return short
    return exact


def _unmet(demands: Sequence[Demand], short: Any) -> tuple[str, ...]:
    """By how much each demand falls short: for a shortage that is too small for a proof to be told from noise."""
    return tuple(
        f"{each.name}: {amount(100 * float(share))} % of it cannot be met"
        for each, share in zip(demands, short, strict=True)
        if share > _TRACE
    )
