"""Where autoscaling keeps its state: who leads, what gateways carry, who was called in its sleep, daily loads."""

from typing import Final

from lepton.names import DeploymentName
from services.inference.store import ROOT

LEADER: Final = f"{ROOT}autoscaler_leader"
LOADS: Final = f"{ROOT}loads/"
"""One key for each gateway, under a lease of the service beside it."""
WAKES: Final = f"{ROOT}wakes/"
"""A mark for each deployment that was called while it had no replica; the leader removes it as it wakes it."""
SEASONS: Final = f"{ROOT}load_seasons/"


def load_key(gateway: str) -> str:
    """Where a gateway's load lies."""
    return f"{LOADS}{gateway}"


def wake_key(name: DeploymentName) -> str:
    """Where it is marked that a deployment was called."""
    return f"{WAKES}{name.project}/{name.deployment}"


def season_key(name: DeploymentName) -> str:
    """Where the load that a deployment has every day lies."""
    return f"{SEASONS}{name.project}/{name.deployment}"


def marked(key: str) -> str:
    """The deployment whose mark lies at a key."""
    project, _, deployment = key.removeprefix(WAKES).partition("/")
    return str(DeploymentName(project, deployment))
