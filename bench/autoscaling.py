"""A deployment that scales: one caller, ten, one, nobody, ten at once, through the whole stack with real parts.

`python -m bench.autoscaling [--json FILE] [--png FILE]`: replicas over time, and for each step errors and latencies.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import grpc

from bench.fleet import load_average
from deploy.local import control
from deploy.local.home import Home
from lepton.client import AsyncClient
from lepton.errors import AlreadyExists
from lepton.profile import Profile
from tests.harness.gateway_load import stub
from tests.harness.scaling_trace import ScalingTrace, deploy, play, wish

_PROJECT: Final = "bench"
_SLO_MS: Final = 500.0
"""The 99th percentile of every step but the one that begins with a cold start."""
_SIZE: Final = (8.0, 4.0)  # inches
_DPI: Final = 110


async def trace(home: Home) -> dict[str, Any]:
    """The whole trace on a stack that runs."""
    profile = Profile.load(home.profile_file)
    password = (await asyncio.to_thread(home.admin_password.read_text)).strip()
    options = [("grpc.ssl_target_name_override", "gateway")]
    credentials = grpc.ssl_channel_credentials(profile.trust_bundle.read_bytes())
    async with (
        AsyncClient.open(profile, project=_PROJECT, user="admin", password=password) as client,
        grpc.aio.secure_channel(profile.gateway, credentials, options=options) as channel,
    ):
        with contextlib.suppress(AlreadyExists):
            await client.projects.create(_PROJECT)
        deployment = await deploy(client, "scaled", wish())
        return await play(ScalingTrace(client, "scaled", stub(channel), deployment.model_name))


def summary(figures: dict[str, Any]) -> dict[str, Any]:
    """What the trace shows, beside its figures."""
    warm = [each for each in figures["phases"] if each["calls"] and each["phase"] != "burst"]
    desired = [each["desired"] for each in figures["replicas"]]
    return {
        "bench": "autoscaling",
        "cores": os.cpu_count(),
        "load_average": load_average(),
        "calls": sum(each["calls"] for each in figures["phases"]),
        "failed_calls": sum(each["errors"] for each in figures["phases"]),
        "slo_p99_ms": _SLO_MS,
        "slo_kept": all(each["p99_ms"] <= _SLO_MS for each in warm),
        "most_replicas": max(desired),
        "slept": 0 in desired,
        **figures,
    }


def draw(figures: Mapping[str, Any], path: Path) -> None:
    """Replicas over time, as asked for and as ready, with the callers."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=_SIZE, dpi=_DPI)
    end = max(each["began_s"] + each["took_s"] for each in figures["phases"])
    at = [each["at_s"] for each in figures["replicas"]] + [end]
    for name in ("desired", "ready"):
        counts = [each[name] for each in figures["replicas"]]
        axes.step(at, [*counts, counts[-1]], where="post", label=f"replicas {name}")
    load = axes.twinx()
    for each in figures["phases"]:
        span = [each["began_s"], each["began_s"] + each["took_s"]]
        load.fill_between(span, [each["callers"]] * 2, color="#cccccc", alpha=0.4, linewidth=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel("replicas")
    load.set_ylabel("callers at once")
    axes.set_title(
        f"{figures['calls']:,} calls, {figures['failed_calls']} failed; cold start {figures['cold_start_s']} s"
    )
    axes.set_zorder(load.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.legend(loc="upper left")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def main() -> None:
    """Starts a stack of its own, plays the trace, and stops it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--png", type=Path, help="draw the replicas there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lepton-bench-") as folder:
        home = Home(Path(folder) / "home")
        hold = control.start(home, lambda component: print(f"starting {component}", file=sys.stderr))
        try:
            figures = summary(asyncio.run(trace(home)))
        finally:
            control.stop(home)
            if hold is not None:
                hold.release()
    text = json.dumps(figures, indent=1)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n")
    if arguments.png is not None:
        draw(figures, arguments.png)


if __name__ == "__main__":
    main()
