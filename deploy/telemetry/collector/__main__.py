"""Runs the collector: `python -m deploy.telemetry.collector --config FILE.toml`; config.py says what stands in it."""

from chassis.app import App, run
from chassis.policy_feed import follow_policy
from deploy.telemetry.collector.config import CollectorConfig
from deploy.telemetry.collector.listeners import GrpcListener, HttpListener
from deploy.telemetry.collector.receiver import GrpcReceiver, http_application
from deploy.telemetry.collector.store import SpanStore


async def build(config: CollectorConfig, app: App) -> None:
    """Put the collector together: a member of the mesh that follows its policy, and calls nobody else."""
    store = await app.enter(SpanStore(config.database))
    await app.join_mesh(follows_policy=False)  # which would audit as well, and nothing here changes anything
    auth = app.peers.channel("auth")
    app.loop("policy", lambda: app.access.follow_forever(lambda: follow_policy(auth)))
    app.loop("otlp over gRPC", GrpcListener(GrpcReceiver(store), config.grpc, app.identity).run)
    app.loop("otlp over HTTP", HttpListener(http_application(store, app.access), config.http, app.identity).run)


if __name__ == "__main__":
    run(CollectorConfig, build)
