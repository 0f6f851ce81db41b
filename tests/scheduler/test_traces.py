"""The trace of a workload goes on through planning and assignment to the agent."""

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from lepton import tracing
from tests.harness.agent import ScriptedAgent
from tests.harness.scheduling import Replica, Workload, workload


async def test_planning_and_assignment_continue_the_workloads_trace(replica: Replica) -> None:
    exporter = InMemorySpanExporter()
    with tracing.tracing("scheduler", exporter=exporter, sample_ratio=1.0):
        async with ScriptedAgent("pools/general/nodes/n1") as agent:
            await replica.connect(agent)
            with tracing.span("submit") as submit:
                parent = submit.traceparent
                await replica.submit("job", workload(2, trace_context=parent))
            await replica.until_state("job", Workload.RUNNING)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    plan, assign = spans["schedule.plan"], spans["schedule.assign"]
    assert f"{plan.context.trace_id:032x}" == parent.split("-")[1]
    assert plan.parent is not None
    assert f"{plan.parent.span_id:016x}" == parent.split("-")[2]
    assert assign.parent is not None
    assert assign.parent.span_id == plan.context.span_id
    assert assign.attributes is not None
    assert assign.attributes["lepton.slices"] == 2
    record = replica.scheduler.ledger.assignment("projects/acme/workloads/job", 1)
    assert record is not None
    assert record.proto.trace_context.split("-")[1] == parent.split("-")[1]


async def test_a_workload_without_a_trace_gets_that_of_its_call(replica: Replica) -> None:
    exporter = InMemorySpanExporter()
    with tracing.tracing("trainer", exporter=exporter, sample_ratio=1.0), tracing.span("submit") as submit:
        created = await replica.submit("job", workload(1))
    assert created.trace_context.split("-")[1] == submit.traceparent.split("-")[1]
