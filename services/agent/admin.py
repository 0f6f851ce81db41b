"""The agent's listeners for whoever is on its machine: health and channelz, and the page of metrics."""

from chassis.config import Listen
from chassis.rpc_metrics import RpcMetrics
from chassis.server import Server


def admin(listen: Listen, metrics: RpcMetrics) -> Server:
    """A server without services: an agent is called by nobody."""
    return Server(
        "agent",
        [],
        listeners=[],
        middleware=[],
        metrics=metrics,
        admin_address=listen.admin,
        metrics_address=listen.metrics,
    )
