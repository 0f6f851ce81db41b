"""The optimisation service's public methods: convert in, call, convert out."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

from chassis.kv import KV
from chassis.paging import Pager
from chassis.watching import changes
from lepton.inference.v1 import optimization_service_pb2 as pb
from lepton.inference.v1.optimization_pb2 import Optimization
from lepton.inference.v1.optimization_service_pb2_grpc import OptimizationServiceServicer
from lepton.names import ModelName, OptimizationName, ProjectName, not_found
from services.inference.optimizations.keys import (
    optimization_key,
    optimization_name_of,
    optimizations,
    optimizations_prefix,
)
from services.inference.optimizations.searches import Searches

_EVERY_MODEL: Final = "/models/-"


class OptimizationServicer(OptimizationServiceServicer):
    """Searches for smaller and faster variants."""

    def __init__(self, kv: KV, searches: Searches, pager: Pager) -> None:
        self._kv, self._searches, self._pager = kv, searches, pager
        self._optimizations = optimizations(kv)

    async def CreateOptimization(self, request: pb.CreateOptimizationRequest, context: Any) -> Optimization:
        """Begins a search."""
        return await self._searches.create(request)

    async def GetOptimization(self, request: pb.GetOptimizationRequest, context: Any) -> Optimization:
        """Reads an optimisation."""
        return await self._optimizations.get(OptimizationName.parse(request.name))

    async def ListOptimizations(
        self, request: pb.ListOptimizationsRequest, context: Any
    ) -> pb.ListOptimizationsResponse:
        """Lists optimisations."""
        page = await self._pager.page(optimizations_prefix(_parent(request.parent)), request)
        return pb.ListOptimizationsResponse(
            optimizations=map(self._optimizations.of, page.entries), next_page_token=page.next_page_token
        )

    async def WatchOptimizations(
        self, request: pb.WatchOptimizationsRequest, context: Any
    ) -> AsyncIterator[pb.WatchOptimizationsResponse]:
        """Follows optimisations."""
        parent = _parent(request.parent)
        only = optimization_key(_within(parent, request.name)) if request.name else ""
        async with aclosing(changes(self._kv, only or optimizations_prefix(parent), request.revision)) as batches:
            async for batch in batches:
                for event in batch.events:
                    if only and event.key != only:
                        continue  # one whose id begins with the one asked for
                    found = self._optimizations.of(event.entry) if event.entry is not None else None
                    yield _change(event.key, found, event.revision)
                bookmark = pb.WatchOptimizationsResponse.BOOKMARK
                yield pb.WatchOptimizationsResponse(event=bookmark, revision=batch.revision)

    async def CancelOptimization(self, request: pb.CancelOptimizationRequest, context: Any) -> Optimization:
        """Stops an optimisation."""
        return await self._searches.cancel(request)

    async def DeleteOptimization(self, request: pb.DeleteOptimizationRequest, context: Any) -> Optimization:
        """Takes an optimisation away."""
        return await self._searches.delete(request)


def _parent(text: str) -> ModelName | ProjectName:
    if text.endswith(_EVERY_MODEL):
        return ProjectName.parse(text.removesuffix(_EVERY_MODEL), "parent")
    return ModelName.parse(text, "parent")


def _within(parent: ModelName | ProjectName, text: str) -> OptimizationName:
    name = OptimizationName.parse(text)
    if not text.startswith(f"{parent}/"):
        raise not_found(name)
    return name


def _change(key: str, optimization: Optimization | None, revision: int) -> pb.WatchOptimizationsResponse:
    if optimization is not None:
        changed = pb.WatchOptimizationsResponse.CHANGED
        return pb.WatchOptimizationsResponse(event=changed, optimization=optimization, revision=revision)
    gone = Optimization(name=str(optimization_name_of(key)))
    deleted = pb.WatchOptimizationsResponse.DELETED
    return pb.WatchOptimizationsResponse(event=deleted, optimization=gone, revision=revision)
