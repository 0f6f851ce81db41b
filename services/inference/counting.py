"""What deployments, batch predictions and optimisations count for against their creators' limits."""

from collections.abc import Callable, Mapping
from typing import Final

from chassis.clock import Clock
from chassis.holdings import Holding, Holdings, Policy
from chassis.kv import KV
from lepton.inference.v1.batch_prediction_pb2 import BatchPrediction
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.optimization_pb2 import Optimization
from services.inference.batch import states
from services.inference.batch import store as batches
from services.inference.compress.variants import VARIANTS
from services.inference.optimizations import keys, progress
from services.inference.store import DEPLOYMENTS as DEPLOYMENTS_PREFIX
from services.inference.store import ROOT

DEPLOYMENTS: Final = "deployments"
BATCH_PREDICTIONS: Final = "batch predictions"
OPTIMIZATIONS: Final = "optimizations"


def devices_of(optimization: Optimization) -> int:
    """Thousandths of devices that the variants of a search ask for, if all of them run at once."""
    variants = (VARIANTS.get(each.variant) for each in optimization.variant_states)
    return 1000 * sum(each.needs_device for each in variants if each is not None)


def _of_deployment(stored: bytes) -> Holding | None:
    deployment = Deployment.FromString(stored)  # its replicas run on cores
    return None if deployment.state == Deployment.FAILED else Holding(holder=deployment.creator)


def _of_batch(stored: bytes) -> Holding | None:
    batch = BatchPrediction.FromString(stored)
    return None if batch.state in states.ENDED else Holding(holder=batch.creator)


def _of_optimization(stored: bytes) -> Holding | None:
    search = Optimization.FromString(stored)
    return None if search.state in progress.ENDED else Holding(holder=search.creator, device_milli=devices_of(search))


_READ: Final[Mapping[str, tuple[str, Callable[[bytes], Holding | None]]]] = {
    DEPLOYMENTS: (DEPLOYMENTS_PREFIX, _of_deployment),
    BATCH_PREDICTIONS: (batches.BATCH_PREDICTIONS, _of_batch),
    OPTIMIZATIONS: (keys.OPTIMIZATIONS, _of_optimization),
}


def counted_by_kind(kv: KV, policy: Policy, clock: Clock) -> Mapping[str, Holdings]:
    """What principals hold, by kind."""
    return {
        kind: Holdings(
            kv, policy, clock, prefix=prefix, guards=f"{ROOT}holders/{kind.replace(' ', '')}/", kind=kind, read=read
        )
        for kind, (prefix, read) in _READ.items()
    }
