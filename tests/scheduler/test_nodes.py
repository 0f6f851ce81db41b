"""Nodes and pools as operators change them: what is set on nodes outlives sessions; pools get rules and classes."""

import asyncio
from typing import Any

import pytest

from lepton.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from lepton.scheduler.v1 import pool_pb2, resources_pb2
from lepton.scheduler.v1.node_pb2 import Node, Taint
from lepton.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from services.scheduler import keys
from services.scheduler.node_settings import NodeSettings, merged
from tests.harness.agent import ScriptedAgent
from tests.harness.memory_kv import MemoryKV
from tests.harness.scheduling import Replica, Workload, pb, replica_of, until, workload

N1 = "pools/general/nodes/n1"


async def update(replica: Replica, node: Node, *paths: str) -> Node:
    request = pb.UpdateNodeRequest(node=node)
    request.update_mask.paths.extend(paths)
    answer: Node = await replica.admin.UpdateNode(request)
    return answer


async def get(replica: Replica, name: str = N1) -> Node:
    answer: Node = await replica.admin.GetNode(pb.GetNodeRequest(name=name))
    return answer


async def test_a_cordoned_node_gets_no_new_work_and_keeps_what_it_runs(replica: Replica) -> None:
    async with ScriptedAgent(N1) as agent:
        await replica.connect(agent)
        await replica.submit("first", workload(1))
        await replica.until_state("first", Workload.RUNNING)
        assert (await update(replica, Node(name=N1, state=Node.CORDONED))).state == Node.CORDONED
        await replica.submit("second", workload(1))

        async def is_judged() -> bool:
            return (await replica.get("second")).pending_reason > Workload.PENDING_EVALUATION

        await until(is_judged)
        assert (await replica.get("first")).state == Workload.RUNNING
        assert agent.starts == [("projects/acme/workloads/first", 1, 0)]
        await update(replica, Node(name=N1, state=Node.READY))
        await replica.until_state("second", Workload.RUNNING)


async def test_what_is_set_on_a_node_outlives_its_session(replica: Replica, kv: MemoryKV) -> None:
    async with ScriptedAgent(N1, labels={"size": "big"}) as agent:
        await replica.connect(agent)
        taint = Taint(key="lepton.dev/maintenance", effect=Taint.NO_SCHEDULE)
        await update(replica, Node(name=N1, state=Node.CORDONED, labels={"owner": "ops"}, taints=[taint]))
        await agent.leave()
        await until(lambda: N1 not in replica.scheduler.ledger.nodes)
        with pytest.raises(NotFound):
            await get(replica)
        await replica.connect(agent)
        node = await get(replica)
        assert (node.state, dict(node.labels)) == (Node.CORDONED, {"size": "big", "owner": "ops"})
        assert list(node.taints) == [taint]
        value = replica.scheduler.ledger.nodes[N1].value
        assert not value.is_schedulable
        assert value.labels == {"size": "big", "owner": "ops"}
        assert [each.key for each in value.taints] == [taint.key]
        stored = Node.FromString((await kv.list(keys.NODES)).entries[0].value)
        assert (stored.state, dict(stored.labels)) == (Node.READY, {"size": "big"})


async def test_a_node_that_is_away_can_be_uncordoned_and_nothing_is_left_of_its_settings(
    replica: Replica, kv: MemoryKV
) -> None:
    async with ScriptedAgent(N1) as agent:
        await replica.connect(agent)
        await update(replica, Node(name=N1, state=Node.CORDONED))
        await agent.leave()
        await until(lambda: N1 not in replica.scheduler.ledger.nodes)
        await update(replica, Node(name=N1, state=Node.READY))
        assert not (await kv.list(keys.NODE_SETTINGS)).entries
        with pytest.raises(NotFound):
            await update(replica, Node(name=N1, state=Node.CORDONED))


async def test_the_mask_says_what_is_changed(replica: Replica) -> None:
    async with ScriptedAgent(N1, labels={"size": "big"}) as agent:
        await replica.connect(agent)
        await update(replica, Node(name=N1, labels={"a": "1", "b": "2"}, state=Node.CORDONED), "labels")
        node = await get(replica)
        assert (node.state, dict(node.labels)) == (Node.READY, {"size": "big", "a": "1", "b": "2"})
        node.labels.pop("a")
        node.labels["size"] = "small"  # the operator is right
        await update(replica, node, "labels")
        assert dict((await get(replica)).labels) == {"size": "small", "b": "2"}
        await update(replica, Node(name=N1), "labels")
        assert dict((await get(replica)).labels) == {"size": "big"}
        await update(replica, Node(name=N1, taints=[Taint(key="x")]))
        await update(replica, Node(name=N1, state=Node.CORDONED), "*")
        node = await get(replica)
        assert (node.state, list(node.taints)) == (Node.CORDONED, [])


@pytest.mark.parametrize(
    ("node", "paths", "field"),
    [
        (Node(), ["address"], "update_mask"),
        (Node(), ["state"], "node.state"),
        (Node(labels={"no spaces": "x"}), ["labels"], "node.labels[no spaces]"),
        (Node(labels={"key": "x" * 300}), ["labels"], "node.labels[key]"),
        (Node(taints=[Taint(key="-")]), ["taints"], "node.taints[0].key"),
        (Node(taints=[Taint(key="k"), Taint(key="k", effect=Taint.NO_SCHEDULE)]), ["taints"], "node.taints[1]"),
    ],
)
async def test_what_cannot_be_set_is_refused_by_name(
    replica: Replica, node: Node, paths: list[str], field: str
) -> None:
    async with ScriptedAgent(N1) as agent:
        await replica.connect(agent)
        node.name = N1
        with pytest.raises(InvalidArgument) as refused:
            await update(replica, node, *paths)
        assert field in str(refused.value) + str(refused.value.fields)


async def test_an_etag_guards_both_parts_of_a_node(replica: Replica) -> None:
    async with ScriptedAgent(N1) as agent:
        await replica.connect(agent)
        read = await get(replica)
        changed = await update(replica, Node(name=N1, labels={"a": "1"}, etag=read.etag))
        assert changed.etag == (await get(replica)).etag != read.etag
        with pytest.raises(Aborted, match="ETAG_MISMATCH"):
            await update(replica, Node(name=N1, labels={"a": "2"}, etag=read.etag))
        await agent.disconnect()
        await replica.connect(agent)  # writes the document again
        with pytest.raises(Aborted, match="ETAG_MISMATCH"):
            await update(replica, Node(name=N1, labels={"a": "2"}, etag=changed.etag))


async def test_lists_and_watches_show_what_is_set(replica: Replica) -> None:
    agents = [ScriptedAgent(f"pools/general/nodes/n{at}") for at in (1, 10, 2)]
    for agent in agents:
        await replica.connect(agent)
    await update(replica, Node(name="pools/general/nodes/n10", state=Node.CORDONED))
    listed = await replica.admin.ListNodes(pb.ListNodesRequest(parent="pools/-"))
    assert [(each.name[-3:], each.state) for each in listed.nodes] == [
        ("/n1", Node.READY), ("n10", Node.CORDONED), ("/n2", Node.READY),
    ]  # fmt: skip
    first = await replica.admin.ListNodes(pb.ListNodesRequest(parent="pools/general", page_size=1))
    second = await replica.admin.ListNodes(
        pb.ListNodesRequest(parent="pools/general", page_size=1, page_token=first.next_page_token)
    )
    assert [each.state for each in second.nodes] == [Node.CORDONED]
    watch: Any = replica.admin.WatchNodes(pb.WatchNodesRequest(parent="pools/general"))
    async with asyncio.timeout(10):
        present = {}
        async for change in watch:
            if change.event == pb.WatchNodesResponse.BOOKMARK:
                break
            present[change.node.name] = change.node.state
        assert present == {each.name: each.state for each in listed.nodes}
        await update(replica, Node(name="pools/general/nodes/n2", state=Node.CORDONED))
        change = await anext(aiter(watch))
        assert (change.node.name, change.node.state) == ("pools/general/nodes/n2", Node.CORDONED)
        assert change.node.etag == (await get(replica, "pools/general/nodes/n2")).etag
    for agent in agents:
        await agent.disconnect()


def test_a_merged_node_has_one_taint_of_each_key_and_effect() -> None:
    declared = Node(taints=[Taint(key="a", value="1"), Taint(key="b", effect=Taint.NO_EXECUTE)])
    node = merged(declared, NodeSettings(taints=[Taint(key="a", value="2", effect=Taint.NO_SCHEDULE)]))
    assert [(each.key, each.value) for each in node.taints] == [("a", "2"), ("b", "")]
    assert [each.value for each in declared.taints] == ["1", ""]
    assert merged(declared, None) == declared


async def test_a_pool_is_changed_by_mask_and_etag(replica: Replica) -> None:
    created = await replica.create_pool("fast")
    rule = pool_pb2.MembershipRule(match_labels={"tier": "fast"}, precedence=3)
    wanted = pool_pb2.Pool(name="pools/fast", display_name="Fast", labels={"a": "1"}, membership=rule)
    setattr(wanted, "class", pool_pb2.Pool.PERFORMANCE)

    async def change(pool: pool_pb2.Pool, *paths: str) -> pool_pb2.Pool:
        request = pb.UpdatePoolRequest(pool=pool)
        request.update_mask.paths.extend(paths)
        answer: pool_pb2.Pool = await replica.admin.UpdatePool(request)
        return answer

    changed = await change(wanted)
    assert (changed.display_name, getattr(changed, "class")) == ("Fast", pool_pb2.Pool.PERFORMANCE)
    assert (changed.membership, changed.uid) == (rule, created.uid)
    assert changed == await replica.admin.GetPool(pb.GetPoolRequest(name="pools/fast"))
    assert (await change(pool_pb2.Pool(name="pools/fast", display_name="x"), "labels")).labels == {}
    assert not (await change(pool_pb2.Pool(name="pools/fast"), "membership")).HasField("membership")
    cleared = await change(pool_pb2.Pool(name="pools/fast"), "*")
    assert (cleared.display_name, getattr(cleared, "class")) == ("", pool_pb2.Pool.GENERAL)
    with pytest.raises(Aborted, match="ETAG_MISMATCH"):
        await change(pool_pb2.Pool(name="pools/fast", display_name="y", etag=created.etag))
    with pytest.raises(InvalidArgument, match="INVALID_FIELD"):
        await change(pool_pb2.Pool(name="pools/fast"), "uid")
    with pytest.raises(NotFound):
        await change(pool_pb2.Pool(name="pools/none", display_name="z"))
    carol = SchedulerServiceStub(await replica.stack.enter_async_context(replica.mesh.client("users/carol")))
    with pytest.raises(PermissionDenied):
        await carol.UpdatePool(pb.UpdatePoolRequest(pool=wanted))
    with pytest.raises(PermissionDenied):
        await carol.UpdateNode(pb.UpdateNodeRequest(node=Node(name=N1, state=Node.CORDONED)))


async def test_a_node_without_a_pool_is_given_one_and_keeps_it(kv: MemoryKV) -> None:
    async with replica_of(kv) as replica:
        for pool, cores, precedence in (("general", 0, 0), ("big", 16, 5)):
            rule = pool_pb2.MembershipRule(
                at_least=resources_pb2.Resources(cpu_milli=1000 * cores), precedence=precedence
            )
            await replica.admin.CreatePool(pb.CreatePoolRequest(pool_id=pool, pool=pool_pb2.Pool(membership=rule)))
        async with (
            ScriptedAgent("pools/-/nodes/n1") as small,
            ScriptedAgent("pools/-/nodes/n2", cpu_milli=32000) as big,
        ):
            await replica.connect(small)
            await replica.connect(big)
            assert (small.node, big.node) == ("pools/general/nodes/n1", "pools/big/nodes/n2")
            await replica.submit("job", workload(1, pools=["pools/big"]))
            await replica.until_state("job", Workload.RUNNING)
            session = big.session_id
            await replica.admin.UpdatePool(
                pb.UpdatePoolRequest(
                    pool=pool_pb2.Pool(name="pools/big", membership=pool_pb2.MembershipRule(match_labels={"a": "b"}))
                )
            )
            await big.disconnect()
            await replica.connect(big)  # with the name it was given
            assert (big.node, big.session_id) == ("pools/big/nodes/n2", session)
            assert big.starts == [("projects/acme/workloads/job", 1, 0)]


async def test_a_node_that_no_rule_accepts_hears_why(replica: Replica) -> None:
    rule = pool_pb2.MembershipRule(match_labels={"tier": "edge"})
    await replica.admin.CreatePool(pb.CreatePoolRequest(pool_id="edge", pool=pool_pb2.Pool(membership=rule)))
    async with ScriptedAgent("pools/-/nodes/n1") as agent:
        with pytest.raises(FailedPrecondition, match="NODE_WITHOUT_POOL") as refused:
            await replica.connect(agent)
        assert "pools/edge: label tier is absent, not edge" in str(refused.value.metadata)
        agent.labels = {"tier": "edge"}
        another = await replica.channel("agent/n2")
        with pytest.raises(PermissionDenied, match="NODE_IDENTITY_MISMATCH"):
            await agent.connect(another)
        await replica.connect(agent)
        assert agent.node == "pools/edge/nodes/n1"
    for wrong in ("pools/-/nodes/../x", "pools/-/nodes/-"):
        async with ScriptedAgent(wrong, labels={"tier": "edge"}) as agent:
            with pytest.raises(InvalidArgument):
                await agent.connect(await replica.channel("agent/x"))
