"""A process that is killed at a chosen step: every write and every call counts, one of them never returns."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from chassis.kv import KV, Compare, Op, TxnResult
from chassis.ledger import Ledger
from lepton.scheduler.v1.scheduler_service_pb2 import WatchWorkloadsResponse


class Crash(Exception):
    """The process is gone."""


class Steps:
    """Counts what a process does to the world; the step `at` kills it, before or after its effect."""

    def __init__(self, at: int = 0, *, after: bool = False) -> None:
        self.at, self.after, self.taken = at, after, 0

    def begin(self) -> None:
        self.taken += 1
        if self.taken == self.at and not self.after:
            raise Crash

    def end(self) -> None:
        if self.taken == self.at and self.after:
            raise Crash


class MortalKV:
    """A store as a process uses it that is to be killed."""

    def __init__(self, kv: KV, steps: Steps) -> None:
        self._kv, self._steps = kv, steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kv, name)

    async def txn(self, compare: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()) -> TxnResult:
        self._steps.begin()
        result = await self._kv.txn(compare, then, otherwise)
        self._steps.end()
        return result


class MortalLedger:
    """A ledger as a process uses it that is to be killed."""

    def __init__(self, ledger: Ledger, steps: Steps) -> None:
        self._ledger, self._steps = ledger, steps

    def watch(self) -> AsyncIterator[WatchWorkloadsResponse]:
        return self._ledger.watch()

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> Any:
            self._steps.begin()
            answer = await getattr(self._ledger, name)(*arguments)
            self._steps.end()
            return answer

        return call
