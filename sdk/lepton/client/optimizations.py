"""`client.optimizations`: searches for smaller and faster variants of models."""

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Final

from lepton.client.calls import Calls
from lepton.client.group import Group, new_request_id
from lepton.client.listing import Listing, Page
from lepton.client.scope import Scope
from lepton.client.watching import Change, Watch, awaited
from lepton.inference.v1 import optimization_service_pb2 as pb
from lepton.inference.v1.optimization_pb2 import Optimization
from lepton.inference.v1.optimization_service_pb2_grpc import OptimizationServiceStub
from lepton.names import ModelName, OptimizationName

ENDED: Final = frozenset({Optimization.SUCCEEDED, Optimization.FAILED, Optimization.CANCELLED})


class Optimizations(Group):
    """Begins, reads, lists, watches, stops and deletes optimisations."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = OptimizationServiceStub(calls.channel("inference"))

    async def create(
        self, model: str, optimization_id: str, optimization: Optimization | None = None, *, request_id: str = ""
    ) -> Optimization:
        """Begin a search among the variants of a model's version. AlreadyExists, NotFound (the version)."""
        request = pb.CreateOptimizationRequest(
            parent=self._scope.name(ModelName, model),
            optimization_id=optimization_id,
            optimization=optimization or Optimization(),
            request_id=request_id or new_request_id(),
        )
        return await self._calls.unary(self._stub.CreateOptimization, request)

    async def get(self, optimization: str) -> Optimization:
        """An optimisation by its name, or as `model/optimization`."""
        return await self._calls.unary(
            self._stub.GetOptimization, pb.GetOptimizationRequest(name=self._name(optimization))
        )

    def list(self, model: str = "", *, project: str | None = None, page_size: int = 0) -> Listing[Optimization]:
        """The optimisations of a model; without one those of all models of a project."""
        parent = self._parent(model, project)

        async def page(token: str) -> Page[Optimization]:
            request = pb.ListOptimizationsRequest(parent=parent, page_size=page_size, page_token=token)
            answer = await self._calls.unary(self._stub.ListOptimizations, request)
            return answer.optimizations, answer.next_page_token

        return Listing(page)

    async def watch(self, optimization: str) -> AsyncGenerator[Optimization, None]:
        """The optimisation as it is, then after every change; ends when it is deleted."""
        async with aclosing(self._watch(self._name(optimization)).changes()) as changes:
            async for change in changes:
                if change.is_deleted:
                    return
                yield change.resource

    def watch_all(
        self, model: str = "", *, project: str | None = None, revision: int = 0
    ) -> AsyncGenerator[Change[Optimization], None]:
        """The optimisations of a model, or of a project, as they are, then every change, for ever."""
        return self._watch("", self._parent(model, project), revision).changes()

    async def wait(
        self,
        optimization: str,
        *,
        until: Callable[[Optimization], bool] | None = None,
        timeout_s: float | None = None,
    ) -> Optimization:
        """The optimisation when it has ended, or `until` says so. DeadlineExceeded."""
        name = self._name(optimization)
        return await awaited(
            name,
            lambda: self.get(name),
            lambda known: self._watch(name, known=(known,)),
            lambda each: (until is not None and until(each)) or each.state in ENDED,
            timeout_s,
        )

    async def cancel(self, optimization: str, *, request_id: str = "") -> Optimization:
        """Stop what has not ended. FailedPrecondition when all of it has."""
        name = self._name(optimization)
        request = pb.CancelOptimizationRequest(name=name, request_id=request_id or new_request_id())
        return await self._calls.unary(self._stub.CancelOptimization, request)

    async def delete(self, optimization: str, *, etag: str = "") -> Optimization:
        """Take an optimisation away; packages and registered versions stay."""
        request = pb.DeleteOptimizationRequest(name=self._name(optimization), etag=etag)
        return await self._calls.unary(self._stub.DeleteOptimization, request)

    def _watch(
        self, name: str, parent: str = "", revision: int = 0, known: Iterable[Optimization] = ()
    ) -> Watch[Optimization]:
        parent = parent or str(OptimizationName.parse(name).parent)
        return Watch(
            self._calls,
            Optimization,
            lambda position: self._stub.WatchOptimizations(
                pb.WatchOptimizationsRequest(parent=parent, name=name, revision=position)
            ),
            revision,
            known,
        )

    def _parent(self, model: str, project: str | None) -> str:
        return self._scope.name(ModelName, model) if model else f"{self._scope.parent(project)}/models/-"

    def _name(self, optimization: str) -> str:
        model, _, last = optimization.partition("/")
        if optimization.startswith("projects/") or not last or "/" in last:
            return str(OptimizationName.parse(optimization))
        return f"{self._scope.name(ModelName, model)}/optimizations/{last}"
