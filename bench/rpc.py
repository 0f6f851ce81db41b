"""What the chassis costs: an echo through all middleware against a bare grpc.aio server, and what tracing adds.

`python -m bench.rpc [--rounds N] [--seconds S]` prints JSON. Servers run on one core, the load on another, rounds
take turns.
"""

import argparse
import asyncio
import json
import os
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final

import grpc
import grpc.aio
import psutil
import uvloop

from bench.echo import SERVICE, PingMessage
from bench.http2_load import Load, Request, load
from chassis import GRPC_EXPERIMENTS

CORES: Final = sorted(os.sched_getaffinity(0))  # before this process confines itself to one
ROOT: Final = Path(__file__).resolve().parent.parent
TARGETS: Final = {
    "full_vs_bare": 0.90,
    "full_mtls_vs_bare": 0.80,
    "full_vs_bare_grpc_aio_client": 0.90,
    "full_mtls_vs_bare_grpc_aio_client": 0.80,
    "traced_1pct_vs_untraced": 0.98,
}
# "bare" is grpc.aio as it comes; "bare_tuned" has the listener that the chassis chooses, and nothing else of it.
_VARIANTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "bare": {"middleware": False, "tls": False, "traced": False, "sampled": 0},
    "bare_tuned": {"middleware": False, "tls": False, "traced": False, "sampled": 0, "tuned": True},
    "bare_mtls": {"middleware": False, "tls": True, "traced": False, "sampled": 0},
    "full": {"middleware": True, "tls": False, "traced": True, "sampled": 1},
    "full_mtls": {"middleware": True, "tls": True, "traced": True, "sampled": 1},
    "full_untraced": {"middleware": True, "tls": False, "traced": False, "sampled": 1},
    "full_100pct": {"middleware": True, "tls": False, "traced": True, "sampled": 100},
}


@dataclass(slots=True, kw_only=True)
class Target:
    """A running server and what its rounds showed."""

    port: int
    process: psutil.Process
    request: Request
    tls: ssl.SSLContext | None
    channel: grpc.aio.Channel
    paired_rates: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    p50_us: list[float] = field(default_factory=list)
    p99_us: list[float] = field(default_factory=list)
    alone_p50_us: list[float] = field(default_factory=list)

    async def round(self, seconds: float) -> None:
        """Sixteen calls in flight, then one at a time."""
        before = self._cpu_s()
        full = checked(
            await load(self.port, self.request, seconds=seconds, concurrency=16, connections=4, tls=self.tls)
        )
        self.cpu_us.append(1e6 * (self._cpu_s() - before) / len(full.latencies_s))
        self.rates.append(full.rate)
        self.p50_us.append(full.percentile_us(0.5))
        self.p99_us.append(full.percentile_us(0.99))
        self.paired_rates.append(await _paired(self.channel, self.request, seconds))
        alone = checked(await load(self.port, self.request, seconds=seconds / 4, concurrency=1, tls=self.tls))
        self.alone_p50_us.append(alone.percentile_us(0.5))

    def forget(self) -> None:
        """Leave the warm-up out of the figures."""
        for kept in (self.rates, self.paired_rates, self.cpu_us, self.p50_us, self.p99_us, self.alone_p50_us):
            kept.clear()

    def _cpu_s(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def summary(self) -> dict[str, float]:
        """Medians over the rounds."""
        return {
            "calls_per_s": round(median(self.rates)),
            "cpu_us_per_call": round(median(self.cpu_us), 1),
            "calls_per_s_grpc_aio_client": round(median(self.paired_rates)),
            "p50_us": round(median(self.p50_us)),
            "p99_us": round(median(self.p99_us)),
            "p50_us_one_at_a_time": round(median(self.alone_p50_us)),
        }


async def measure(rounds: int, seconds: float) -> dict[str, Any]:
    """Load every variant in turn, as often as asked."""
    async with AsyncExitStack() as running:
        otlp = await running.enter_async_context(_collector())
        targets = {
            name: await running.enter_async_context(target(settings, otlp)) for name, settings in _VARIANTS.items()
        }
        for target in targets.values():
            await target.round(0.4)
        for target in targets.values():
            target.forget()
        names = list(targets)
        for number in range(rounds):
            for name in names if number % 2 == 0 else reversed(names):
                await targets[name].round(seconds)
    return _report(targets, rounds, seconds)


def _report(targets: Mapping[str, Target], rounds: int, seconds: float) -> dict[str, Any]:
    ratios = {
        "full_vs_bare": _ratio(targets["full"].rates, targets["bare"].rates),
        "full_mtls_vs_bare": _ratio(targets["full_mtls"].rates, targets["bare"].rates),
        "full_vs_bare_tuned": _ratio(targets["full"].rates, targets["bare_tuned"].rates),
        "full_mtls_vs_bare_mtls": _ratio(targets["full_mtls"].rates, targets["bare_mtls"].rates),
        "traced_1pct_vs_untraced": _ratio(targets["full"].rates, targets["full_untraced"].rates),
        "traced_100pct_vs_untraced": _ratio(targets["full_100pct"].rates, targets["full_untraced"].rates),
        "full_vs_bare_grpc_aio_client": _ratio(targets["full"].paired_rates, targets["bare"].paired_rates),
        "full_mtls_vs_bare_grpc_aio_client": _ratio(targets["full_mtls"].paired_rates, targets["bare"].paired_rates),
        "cpu_full_vs_bare": _ratio(targets["full"].cpu_us, targets["bare"].cpu_us),
        "cpu_full_vs_bare_best_quarter": _quiet(targets["full"].cpu_us, targets["bare"].cpu_us),
        "cpu_full_vs_bare_tuned_best_quarter": _quiet(targets["full"].cpu_us, targets["bare_tuned"].cpu_us),
        "cpu_1pct_vs_untraced": _ratio(targets["full"].cpu_us, targets["full_untraced"].cpu_us),
    }
    return {
        "bench": "rpc",
        "variants": {name: target.summary() for name, target in targets.items()},
        "ratios": ratios,
        "targets": {name: {"at_least": least, "met": ratios[name] >= least} for name, least in TARGETS.items()},
        "rounds": rounds,
        "seconds_per_round": seconds,
        "grpcio": grpc.__version__,
        "python": sys.version.split()[0],
        "load_average": os.getloadavg()[0],
    }


def _quiet(above: list[float], below: list[float]) -> float:
    """The ratio of the best quarters: noise only ever adds CPU, so on a busy machine this comes nearer to the truth."""
    return round(sorted(above)[len(above) // 4] / sorted(below)[len(below) // 4], 3)


def _ratio(above: list[float], below: list[float]) -> float:
    """The median of the rounds' own ratios, so that what disturbs a whole round disturbs both sides."""
    return round(median(one / other for one, other in zip(above, below, strict=True)), 3)


def checked(result: Load) -> Load:
    """A load of which every call was answered."""
    if result.failures or not result.latencies_s:
        raise SystemExit(f"{result.failures} calls failed: the figures would be worthless")
    return result


@asynccontextmanager
async def target(settings: Mapping[str, Any], otlp: str) -> AsyncIterator[Target]:
    """A server of the variant, running, and the call to load it with."""
    chosen = {**settings, "otlp": otlp if settings["traced"] else "", "core": CORES[0]}
    is_tuned = settings["middleware"] or settings.get("tuned", False)
    environment = {**os.environ, "GRPC_EXPERIMENTS": GRPC_EXPERIMENTS if is_tuned else ""}
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.rpc_server", json.dumps(chosen),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT, env=environment,
    )  # fmt: skip
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        hello = json.loads(await server.stdout.readline())
        body = PingMessage(name="projects/acme/jobs/one", text="a word or two").SerializeToString()
        request = Request(
            path=f"/{SERVICE}/Ping",
            body=body,
            headers=(("authorization", f"Bearer {hello['token']}"),),
            varying=("traceparent", [_traceparent(turn < settings["sampled"]) for turn in range(100)]),
        )
        async with _channel(hello, with_tls=settings["tls"]) as channel:
            yield Target(
                port=hello["port"],
                channel=channel,
                process=psutil.Process(server.pid),
                request=request,
                tls=_context(hello) if settings["tls"] else None,
            )
    finally:
        server.stdin.close()
        await server.wait()


@asynccontextmanager
async def _collector() -> AsyncIterator[str]:
    """An OTLP receiver that throws everything away, on the load's core."""
    handler: Any = grpc.unary_unary_rpc_method_handler(_discard)
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def _discard(request: bytes, context: Any) -> bytes:  # noqa: ARG001
    return b""


def _channel(hello: Mapping[str, Any], *, with_tls: bool) -> grpc.aio.Channel:
    address = f"127.0.0.1:{hello['port']}"
    if not with_tls:
        return grpc.aio.insecure_channel(address)
    pems = (hello[name].encode() for name in ("bundle", "key", "chain"))
    return grpc.aio.secure_channel(
        address, grpc.ssl_channel_credentials(*pems), [("grpc.ssl_target_name_override", "trainer")]
    )


async def _paired(channel: grpc.aio.Channel, request: Request, seconds: float) -> float:
    """Calls per second of a grpc.aio client with sixteen in flight: client and server share the work, as in a mesh."""
    call: Any = channel.unary_unary(request.path)
    until, done = perf_counter() + seconds, 0
    name, values = request.varying or ("", ("",))

    async def caller() -> None:
        nonlocal done
        while perf_counter() < until:
            metadata = (*request.headers, (name, values[done % len(values)]))
            await call(request.body, timeout=30, metadata=metadata)
            done += 1

    started = perf_counter()
    async with asyncio.TaskGroup() as callers:
        for _ in range(16):
            callers.create_task(caller())
    return done / (perf_counter() - started)


def _context(hello: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=hello["bundle"])
    context.set_alpn_protocols(["h2"])
    with tempfile.NamedTemporaryFile("w") as file:  # ssl reads certificates from files only
        file.write(hello["key"] + hello["chain"])
        file.flush()
        context.load_cert_chain(file.name)
    return context


def _traceparent(is_sampled: bool) -> str:
    return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-{'01' if is_sampled else '00'}"


def main() -> None:
    """Print the figures; exit 1 when a target is missed and --strict is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.6)
    parser.add_argument("--strict", action="store_true")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {CORES[-1]})
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # else starting the servers warns
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(measure(arguments.rounds, arguments.seconds))
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    if arguments.strict and not all(target["met"] for target in report["targets"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
