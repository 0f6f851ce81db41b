"""What the scheduler answers, blocking."""

from lepton.client.explain import Explain
from lepton.client.loop_thread import Facade, iterates, lists, waits
from lepton.client.nodes import Nodes
from lepton.client.planning import Planning
from lepton.client.pools import Pools
from lepton.client.queues import FloatingResources, Queues
from lepton.client.usage import Usage
from lepton.client.workloads import Workloads


class BlockingQueues(Facade[Queues]):
    """`client.queues` that blocks."""

    create = waits(Queues.create)
    get = waits(Queues.get)
    list = lists(Queues.list)
    watch_all = iterates(Queues.watch_all)
    update = waits(Queues.update)
    delete = waits(Queues.delete)


class BlockingFloatingResources(Facade[FloatingResources]):
    """`client.floating_resources` that blocks."""

    create = waits(FloatingResources.create)
    get = waits(FloatingResources.get)
    list = lists(FloatingResources.list)
    watch_all = iterates(FloatingResources.watch_all)
    update = waits(FloatingResources.update)
    delete = waits(FloatingResources.delete)


class BlockingPools(Facade[Pools]):
    """`client.pools` that blocks."""

    create = waits(Pools.create)
    get = waits(Pools.get)
    list = lists(Pools.list)
    watch_all = iterates(Pools.watch_all)
    update = waits(Pools.update)
    delete = waits(Pools.delete)


class BlockingNodes(Facade[Nodes]):
    """`client.nodes` that blocks."""

    get = waits(Nodes.get)
    list = lists(Nodes.list)
    update = waits(Nodes.update)
    change = waits(Nodes.change)
    cordon = waits(Nodes.cordon)
    uncordon = waits(Nodes.uncordon)
    watch_all = iterates(Nodes.watch_all)
    wait = waits(Nodes.wait)


class BlockingUsage(Facade[Usage]):
    """`client.usage` that blocks."""

    get = waits(Usage.get)


class BlockingWorkloads(Facade[Workloads]):
    """`client.workloads` that blocks."""

    create = waits(Workloads.create)
    create_many = waits(Workloads.create_many)
    get = waits(Workloads.get)
    list = lists(Workloads.list)
    watch = iterates(Workloads.watch)
    watch_all = iterates(Workloads.watch_all)
    wait = waits(Workloads.wait)
    update = waits(Workloads.update)
    cancel = waits(Workloads.cancel)
    delete = waits(Workloads.delete)


class BlockingExplain(Facade[Explain]):
    """`client.explain` that blocks."""

    why = waits(Explain.why)
    what_if = waits(Explain.what_if)


class BlockingPlanning(Facade[Planning]):
    """`client.planning` that blocks."""

    allocation = waits(Planning.allocation)
    scaling = waits(Planning.scaling)
    balancing = waits(Planning.balancing)
