"""Queues as clients see them: created, read, changed and deleted. Every change is checked against the whole tree."""

import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from chassis.clock import Clock
from chassis.etags import etag as etag_at
from chassis.etags import unchanged
from chassis.kv import KV, Compare, Delete, Entry, Op, Put, absent, mod
from chassis.paging import Pager
from chassis.requests import Claim, Requests
from chassis.watching import changes
from lepton.errors import Aborted, AlreadyExists, FailedPrecondition
from lepton.names import QueueName, not_found
from lepton.scheduler.v1 import queue_pb2
from lepton.scheduler.v1 import queue_service_pb2 as service
from services.scheduler import keys
from services.scheduler.convert.documents import stored
from services.scheduler.convert.moments import timestamp
from services.scheduler.discretion import Scopes, conceal
from services.scheduler.ledger import Ledger
from services.scheduler.queue_rules import apply_update, check_queue
from services.scheduler.queue_status import QueueStatus

Queue = queue_pb2.Queue
_ATTEMPTS: Final = 8
_PAGE: Final = 500


class Queues:
    """The tree of queues. One key is written with every change of it, so that no two changes overlook each other."""

    def __init__(
        self, kv: KV, ledger: Ledger, requests: Requests, pager: Pager, clock: Clock, scopes: Scopes | None = None
    ) -> None:
        self._kv = kv
        self._scopes = scopes
        self._ledger = ledger
        self._requests = requests
        self._pager = pager
        self._clock = clock
        self._status = QueueStatus(ledger)

    async def create(self, request: service.CreateQueueRequest) -> Queue:
        """A new queue."""
        return await self._requests.once(request, Queue, lambda claim: self._create(request, claim))

    async def _create(self, request: service.CreateQueueRequest, claim: Claim) -> Queue | None:
        name = QueueName(request.queue_id)
        tree, others = await self._tree()
        if str(name) in others:
            raise AlreadyExists("QUEUE_ALREADY_EXISTS", queue=str(name))
        queue = Queue()
        queue.CopyFrom(request.queue)
        queue.name, queue.uid = str(name), str(uuid.uuid4())
        check_queue(queue, others)
        queue.policy = queue.policy or Queue.FAIR_SHARE
        queue.strictness = queue.strictness or Queue.BEST_EFFORT
        now = timestamp(self._clock.now())
        queue.create_time.CopyFrom(now)
        queue.update_time.CopyFrom(now)
        key = keys.queue(name)
        then = [Put(key, stored(queue)), *claim.record(queue)]
        return await self._write(queue, [tree, absent(key), *claim.guard], then)

    async def get(self, name: QueueName) -> Queue:
        """A queue with what stands in it now."""
        return self._shown(await self._read(name))

    async def list(self, request: service.ListQueuesRequest) -> service.ListQueuesResponse:
        """A page of queues."""
        page = await self._pager.page(keys.QUEUES, request)
        queues = [self._shown(entry) for entry in page.entries]
        return service.ListQueuesResponse(queues=queues, next_page_token=page.next_page_token)

    async def watch(self, request: service.WatchQueuesRequest) -> AsyncGenerator[service.WatchQueuesResponse, None]:
        """The queues as they are, then every change of what is set on them."""
        response = service.WatchQueuesResponse
        async with aclosing(changes(self._kv, keys.QUEUES, request.revision)) as batches:
            async for batch in batches:
                if batch.events:
                    await self._ledger.reached(max(event.revision for event in batch.events))
                for event in batch.events:
                    if event.entry is not None:
                        queue = self._shown(event.entry)
                        yield response(event=response.CHANGED, queue=queue, revision=event.revision)
                    else:
                        gone = Queue(name=str(QueueName(event.key.removeprefix(keys.QUEUES))))
                        yield response(event=response.DELETED, queue=gone, revision=event.revision)
                if not batch.events:
                    yield response(event=response.BOOKMARK, revision=batch.revision)

    async def update(self, request: service.UpdateQueueRequest) -> Queue:
        """Change what a queue is; the leader makes it so."""
        name = QueueName.parse(request.queue.name, "queue.name")
        for _ in range(_ATTEMPTS):
            tree, others = await self._tree()
            entry = await self._read(name)
            condition = unchanged(entry, request.queue.etag, name)
            changed = apply_update(Queue.FromString(entry.value), request.queue, request.update_mask.paths)
            check_queue(changed, others)
            changed.update_time.CopyFrom(timestamp(self._clock.now()))
            written = await self._write(changed, [tree, condition], [Put(entry.key, stored(changed))])
            if written is not None:
                return written
        raise Aborted("WRITE_CONFLICT", name=str(name))

    async def delete(self, name: QueueName, etag: str) -> None:
        """Remove a queue that has no queues below it, and no workloads that have not ended."""
        for _ in range(_ATTEMPTS):
            tree, others = await self._tree()
            entry = await self._read(name)
            condition = unchanged(entry, etag, name)
            users = [below for below, each in others.items() if each.parent == str(name)]
            users += self._status.users(str(name))
            if users:
                raise FailedPrecondition("QUEUE_IN_USE", queue=str(name), user=users[0], count=str(len(users)))
            result = await self._kv.txn([tree, condition], [Delete(entry.key), Put(keys.QUEUE_TREE, b"")])
            if result.succeeded:
                return
        raise Aborted("WRITE_CONFLICT", name=str(name))

    async def _tree(self) -> tuple[Compare, dict[str, Queue]]:
        """All queues, and the condition that none has changed since."""
        guard = await self._kv.get(keys.QUEUE_TREE)
        queues: dict[str, Queue] = {}
        after = ""
        while True:
            page = await self._kv.list(keys.QUEUES, limit=_PAGE, start_after=after)
            for entry in page.entries:
                queue = Queue.FromString(entry.value)
                queues[queue.name] = queue
            if not page.more:
                return mod(keys.QUEUE_TREE, guard.mod_revision if guard else 0), queues
            after = page.entries[-1].key

    async def _read(self, name: QueueName) -> Entry:
        entry = await self._kv.get(keys.queue(name))
        if entry is None:
            raise not_found(name)
        return entry

    async def _write(self, queue: Queue, compare: Sequence[Compare], then: Sequence[Op]) -> Queue | None:
        result = await self._kv.txn(compare, [*then, Put(keys.QUEUE_TREE, b"")])
        if not result.succeeded:
            return None
        await self._ledger.reached(result.revision)
        queue.etag = etag_at(result.revision)
        self._status.fill(queue)
        return queue

    def _shown(self, entry: Entry) -> Queue:
        queue = Queue.FromString(entry.value)
        queue.etag = etag_at(entry.mod_revision)
        self._status.fill(queue)
        return conceal(queue, self._scopes)
