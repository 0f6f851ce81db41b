"""Starts the scheduler: `python -m services.scheduler --config FILE.toml`."""

import os

# grpc 1.81's EventEngine listener costs a server of 10,000 quiet streams three times the CPU (bench/fanin.py). This is
# read when grpc is first imported. Remove it once the bench shows no difference.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")

from chassis.app import App, run
from chassis.compliance_watch import FeedReporter
from chassis.etcd import TLS, EtcdKV
from chassis.paging import Pager
from chassis.secret_mounts import Gate
from services.scheduler import keys
from services.scheduler.config import SchedulerConfig
from services.scheduler.scheduler import Scheduler


async def build(config: SchedulerConfig, app: App) -> None:
    """Wire one replica."""
    kv = await app.enter(
        EtcdKV(
            config.etcd_endpoints, tls=TLS.of_files(config.etcd_ca, config.etcd_cert, config.etcd_key), clock=app.clock
        )
    )
    await app.join_mesh()
    pager = await Pager.open(kv, keys.PAGE_KEY)
    gate = Gate(app.access, app.peers.channel("auth"))
    scheduler = Scheduler(kv, pager, app.clock, config, access=app.access, gate=gate)
    watch = scheduler.compliance_watch(FeedReporter(app.peers.channel("auth")))
    app.loop("look at compliance", watch.run)
    for name, loop in scheduler.loops.items():
        app.loop(name, loop)
    app.serve(*scheduler.registrations)


if __name__ == "__main__":
    run(SchedulerConfig, build)
