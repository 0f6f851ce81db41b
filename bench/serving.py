"""One small ONNX model served by Lepton, Ray Serve, MLServer, KServe, LitServe and BentoML on the same cores.

Lepton is its data plane as deployed: Envoy with TLS, token check, policy and access log, and Triton behind it. The
peers run without TLS and without tokens, each at its best documented setting, in an environment of its own that is made
from pinned versions on the first run and kept (LEPTON_PEERS, or the user's cache folder).

Every round starts each server afresh and alone, in alternating order; servers get all cores but the last, the load
comes from the last. Figures are medians of the rounds; ratios are medians of the rounds' own ratios.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.peers import environments, serving_model
from bench.serving_contenders import PEERS, Running, Setting, Unavailable, running, warn
from bench.serving_load import Load, load, missing

_GOAL: Final = 1.4
_TRIES: Final = 3
_CONCURRENCIES: Final = "16,1,64"
_SETTINGS: Final = (
    Setting(name="lepton", batch=32),
    Setting(name="ray"),
    Setting(name="ray", batch=32),
    Setting(name="mlserver"),
    Setting(name="mlserver", batch=32),
    Setting(name="kserve"),
    Setting(name="litserve"),
    Setting(name="litserve", batch=32),
    Setting(name="bentoml"),
    Setting(name="bentoml", batch=32),
)

Figures = dict[str, float]


async def measured(setting: Setting, arguments: argparse.Namespace, cores: Sequence[int]) -> dict[int, Figures]:
    """One round of one server: its figures by concurrency. Raises Unavailable."""
    async with running(setting, cores[:-1]) as up:
        # Some go on starting long after their first answer.
        await _loaded(up, _numbers(arguments.concurrency)[0], arguments, cores[-1:])
        return {each: await _loaded(up, each, arguments, cores[-1:]) for each in _numbers(arguments.concurrency)}


async def _loaded(up: Running, concurrency: int, arguments: argparse.Namespace, cores: Sequence[int]) -> Figures:
    expected = serving_model.logits()[0]
    body = await _right_answer(up, expected)
    seen: Load = await asyncio.to_thread(
        load, up.call, concurrency=concurrency, seconds=arguments.seconds, cores=cores, spent_s=up.cpu_s
    )
    await _right_answer(up, expected)
    # JSON writes the last digit of a number in more or fewer characters, as batches are summed up in another order.
    slack = 0.03 if up.call.is_http1 else 0.0
    if not seen.are_answers(len(body), slack):
        raise Unavailable(f"of {seen.done} calls {seen.failed} failed, {seen.data_bytes} bytes of {len(body)} each")
    return {"rate": seen.rate, "p50_us": seen.p50_us, "p99_us": seen.p99_us, "cpu_us_per_call": seen.cpu_us_per_call}


async def _right_answer(up: Running, expected: Any) -> bytes:
    body = await asyncio.to_thread(up.ask)
    if not np.allclose(up.read(body), expected, rtol=1e-3, atol=1e-3):
        raise Unavailable("it answers something else than onnxruntime")
    return body


async def main(arguments: argparse.Namespace) -> dict[str, Any]:
    """All rounds of all settings that were asked for."""
    task = asyncio.current_task()
    assert task is not None
    for sent in (signal.SIGINT, signal.SIGTERM):  # also in the background, where a shell has SIGINT ignored
        asyncio.get_running_loop().add_signal_handler(sent, task.cancel)
    cores = sorted(os.sched_getaffinity(0))
    if reason := missing() or ("" if len(cores) > 1 else "it takes two cores: one serves, one asks"):
        return {"bench": "serving", "not run": reason}
    asked = set(arguments.only.split(",")) if arguments.only else {"lepton", *PEERS}
    settings = [each for each in _SETTINGS if each.name in asked]
    rounds: list[dict[str, dict[int, Figures]]] = []
    unavailable: dict[str, list[str]] = defaultdict(list)
    at_start = os.getloadavg()
    for number in range(arguments.rounds):
        rounds.append({})
        for setting in settings if number % 2 == 0 else reversed(settings):
            if len(unavailable[setting.title]) >= _TRIES:
                continue
            try:
                rounds[-1][setting.title] = await measured(setting, arguments, cores)
            except Unavailable as error:
                unavailable[setting.title].append(str(error))
                warn(f"{setting.title}: {error}")
                continue
            shown = {at: f"{figures['rate']:,.0f}/s" for at, figures in rounds[-1][setting.title].items()}
            warn(f"round {number + 1} of {arguments.rounds}: {setting.title}: {shown}")
    return {
        "bench": "serving",
        "cores": {"serving": cores[:-1], "load": cores[-1:]},
        "load_average": {"at the start": at_start, "at the end": os.getloadavg()},
        "versions": {peer: environments.version(peer) for peer in PEERS},
        "failed": {title: problems for title, problems in unavailable.items() if problems},
        "rounds": arguments.rounds,
        "concurrency": {str(at): _compared(rounds, at) for at in _numbers(arguments.concurrency)},
        "goal": _GOAL,
    }


def _compared(rounds: Sequence[dict[str, dict[int, Figures]]], concurrency: int) -> dict[str, Any]:
    """The medians at one concurrency, and Lepton against each peer's better setting in the same rounds."""
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    ratios: dict[str, list[float]] = defaultdict(list)
    best: list[float] = []
    for each in rounds:
        rates = {title: seen[concurrency]["rate"] for title, seen in each.items()}
        for title, seen in each.items():
            for name, value in seen[concurrency].items():
                figures[title][name].append(value)
        ours = max((rate for title, rate in rates.items() if title.startswith("lepton")), default=None)
        peers = {name: [rate for title, rate in rates.items() if title.startswith(name)] for name in PEERS}
        theirs = {name: max(found) for name, found in peers.items() if found}
        if ours is None or not theirs:
            continue
        best.append(ours / max(theirs.values()))
        for name, rate in theirs.items():
            ratios[name].append(ours / rate)
    return {
        "servers": {
            title: {name: round(statistics.median(values), 1) for name, values in seen.items()}
            for title, seen in figures.items()
        },
        "lepton_over_peer": {name: round(statistics.median(values), 2) for name, values in ratios.items()},
        "lepton_over_best": round(statistics.median(best), 2) if best else None,
    }


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of each load, after one that is not counted")
    parser.add_argument("--concurrency", default=_CONCURRENCIES, help="calls at once, in this order")
    parser.add_argument("--only", default="", help=f"of lepton,{','.join(PEERS)}")
    parser.add_argument("--json", default="-", help="where the figures go; - = standard output")
    return parser.parse_args()


if __name__ == "__main__":
    wanted = _arguments()
    text = json.dumps(asyncio.run(main(wanted)), indent=2)
    print(text) if wanted.json == "-" else Path(wanted.json).write_text(text + "\n")
