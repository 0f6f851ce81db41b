"""The strategies of a parameter server's ranks: one that serves, one that works."""

import asyncio
import socket
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from lepton.errors import FailedPrecondition
from lepton.train.parallel import gradients, state
from lepton.train.parallel.mesh import Place
from lepton.train.parallel.optimizing import MakeOptimizer, Optimizing
from lepton.train.parallel.parameter_server import directory
from lepton.train.parallel.parameter_server.client import Client
from lepton.train.parallel.parameter_server.clock import Clock
from lepton.train.parallel.parameter_server.division import divide
from lepton.train.parallel.parameter_server.server import Server
from lepton.train.parallel.precision import Precision
from lepton.train.parallel.replicas import Summed
from lepton.train.parallel.strategy import Loss, SavedState
from lepton.train.parallel.whole import WholeModel
from lepton.train.plan import Plan


def names_of_servers(model: nn.Module, servers: int) -> list[list[str]]:
    """The names of the weights that each server has: those that are trained."""
    return divide({name: p.nbytes for name, p in model.named_parameters() if p.requires_grad}, servers)


class Serving:
    """A rank that holds some of the weights, on the CPU, and steps whenever a worker's gradients come."""

    saves = counts = False
    serves = True
    joins_after = 0

    def __init__(self, plan: Plan, place: Place, store: Any, model: nn.Module, optimizer: MakeOptimizer) -> None:
        """Listens at once, so that workers find it; answers from `serve()` on."""
        self.model, self.device = model.cpu(), torch.device("cpu")
        self.data_rank, self.data_size = place.data_rank, place.data_size
        mine = names_of_servers(model, plan.servers)[place.rank]
        named = {name: parameter for name, parameter in model.named_parameters() if name in mine}
        self._optimizing = Optimizing(named, optimizer, Precision("fp32", self.device), device=self.device)
        self._listener = socket.create_server((directory.own_host(), 0))
        secret = directory.announce(store, place.rank, self._listener.getsockname()[:2])
        clock = Clock(workers=place.data_size, max_staleness=plan.max_staleness)
        self._server = Server(self._optimizing, self._listener, secret, workers=place.data_size, clock=clock)

    def serve(self) -> None:
        """See Strategy. Raises Unavailable when the workers are gone and do not come back."""
        asyncio.run(self._server.run())

    def load(self, checkpoint: SavedState) -> None:
        """See Strategy."""
        state.load_into(self.model, self._optimizing, checkpoint)

    def state(self) -> dict[str, Any]:
        """What this server has of the state; workers give the whole."""
        named = {name: parameter.detach() for name, parameter in self._optimizing.named.items()}
        return {"model": named, "optimizer": self._optimizing.state()}

    def full_model_state(self) -> dict[str, Tensor]:
        """Nothing: workers have it."""
        return {}

    def close(self) -> None:
        """See Strategy."""
        self._listener.close()

    def forward_backward(
        self, inputs: Tensor, targets: Tensor, loss: Loss, *, scale: float, parts: int = 1
    ) -> NoReturn:
        """Raises FailedPrecondition: a server does not train."""
        raise FailedPrecondition("RANK_SERVES", rank="this rank")

    def step(self, *, learning_rate: float, clip_norm: float = 0.0) -> NoReturn:
        """Raises FailedPrecondition: a server does not train."""
        raise FailedPrecondition("RANK_SERVES", rank="this rank")

    def evaluate(self, inputs: Tensor) -> NoReturn:
        """Raises FailedPrecondition: a server does not train."""
        raise FailedPrecondition("RANK_SERVES", rank="this rank")


class Working(WholeModel):
    """A rank that passes its share of the data through weights that are a few steps old at most.

    Each push is a step of its own at 1/workers of the rate, from this rank's share scaled up to the whole batch: as
    many pushes as there are workers move the weights as one step of all together would.
    """

    serves = False

    def __init__(
        self, plan: Plan, place: Place, store: Any, model: nn.Module, optimizer: MakeOptimizer, precision: Precision
    ) -> None:
        """Joins the servers, and takes their weights."""
        # The optimizer is the servers'; here it names the weights, and holds nothing.
        self._weights = Optimizing(dict(model.named_parameters()), optimizer, precision, device=place.device)
        super().__init__(model, place, Summed(model), self._weights, precision)
        self.saves, self.counts = place.data_rank == 0, True
        self._scaler, self._names = precision.loss_scale, names_of_servers(model, plan.servers)
        servers = [directory.find(store, number) for number in range(plan.servers)]
        self._client = Client(servers, worker=place.data_rank)
        self.joins_after = self._client.step
        self._is_fresh = False
        self.furthest = 0  # what the servers saw a worker be ahead at most

    def forward_backward(
        self, inputs: Tensor, targets: Tensor, loss: Loss, *, scale: float, parts: int = 1
    ) -> tuple[float, Tensor | None]:
        """See Strategy; `scale` is that of the whole batch."""
        self._pull()
        return super().forward_backward(inputs, targets, loss, scale=scale * self.data_size, parts=parts)

    def step(self, *, learning_rate: float, clip_norm: float = 0.0) -> None:
        """Pushes the gradients; the servers step."""
        is_finite = True
        if clip_norm > 0 or self._scaler is not None:
            if self._scaler is not None:
                gradients.scale(self._weights.parameters, 1.0 / self._scaler.value)
            norm = gradients.norm(self._weights.parameters, device=self.device)
            is_finite = bool(torch.isfinite(norm))
            if self._scaler is not None:
                self._scaler.update(is_finite=is_finite)
            if clip_norm > 0:
                gradients.scale(self._weights.parameters, torch.clamp(clip_norm / (norm + 1e-6), max=1.0))
        given = {n: p.grad for n, p in self._weights.named.items() if p.grad is not None} if is_finite else {}
        shares = [{name: given[name] for name in names if name in given} for names in self._names]
        self._client.ask({"kind": "push", "learning_rate": learning_rate / self.data_size}, shares)
        for parameter in self._weights.parameters:
            parameter.grad = None
        self._is_fresh = False

    def evaluate(self, inputs: Tensor) -> Tensor | None:
        """See Strategy."""
        self._pull()
        return super().evaluate(inputs)

    def state(self) -> dict[str, Any]:
        """The whole state, from all servers; each server's part is of one moment."""
        kept: dict[str, dict[str, Tensor]] = {}
        with torch.no_grad():
            for _, tensors in self._client.ask({"kind": "snapshot"}):
                for path, tensor in tensors.items():
                    key, _, name = path.partition("/")
                    if key == "model":
                        self._weights.named[name].copy_(tensor)
                    else:
                        kept.setdefault(name, {})[key] = tensor
        return {"model": state.model_state(self.model), "optimizer": {"state": kept}}

    def load(self, checkpoint: SavedState) -> None:
        """Takes over what workers have themselves (buffers, frozen weights); the servers load the rest."""
        checkpoint.load_into({"model": {k: v for k, v in state.model_state(self.model).items() if torch.is_tensor(v)}})
        self._is_fresh = False

    def full_model_state(self) -> dict[str, Tensor]:
        """See Strategy; on the rank that saves, once no other worker is behind it."""
        if not self.saves:
            return {}
        self._is_fresh = False
        self._pull(max_staleness=0)
        return state.whole(state.model_state(self.model), keep=True)

    def close(self) -> None:
        """Tells the servers that this worker has finished."""
        self._client.ask({"kind": "finish"})
        self._client.close()

    def _pull(self, max_staleness: int | None = None) -> None:
        if self._is_fresh:
            return
        request = {"kind": "pull"} if max_staleness is None else {"kind": "pull", "max_staleness": max_staleness}
        with torch.no_grad():
            for answer, tensors in self._client.ask(request):
                self.furthest = max(self.furthest, int(answer["furthest"]))
                for name, tensor in tensors.items():
                    self._weights.named[name].copy_(tensor)
        self._is_fresh = True
