"""An agent whose fence is off: what tests of the fence must fail with."""

from chassis.app import run
from services.agent.__main__ import build
from services.agent.config import AgentConfig
from services.agent.fence import BootClock, Fence

if __name__ == "__main__":
    Fence.due_s = property(lambda self: self.sent_s + 1e9)  # type: ignore[assignment, method-assign]
    run(AgentConfig, build, clock=BootClock())
