"""An agent that cannot tell one failure from another, and watches nobody: what tests of failures must fail with."""

import asyncio

from chassis.app import run
from chassis.failures import FailureClass
from services.agent import attendant
from services.agent.__main__ import build
from services.agent.cause import Cause, Evidence
from services.agent.config import AgentConfig
from services.agent.fence import BootClock
from services.agent.watchdog import Watchdog


def judge(evidence: Evidence) -> Cause:
    """Always the program's own fault."""
    return Cause(failure_class=FailureClass.USER_ERROR, message=f"exit code {evidence.exit_code}", advice="")


async def watch(_watchdog: Watchdog) -> None:
    """Nobody hangs."""
    await asyncio.Event().wait()


if __name__ == "__main__":
    attendant.judge = judge
    Watchdog.watch = watch  # type: ignore[method-assign]
    run(AgentConfig, build, clock=BootClock())
