"""Copies of tensors to write from where a fork does not help: of devices' memory, and of memory that others share.

A device's tensors are copied on the device first where it has room (that takes a thousandth of the time), and from
there over a stream of their own into pinned memory, while training goes on; without room training's stream waits for
the copy. The pinned memory is kept for the next checkpoint: getting it takes longer than the copy.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import torch

from lepton.train.checkpoints.memory import Holding

_SPARE: Final = 1.25  # device memory that must be free for copies, over what they need


class Staging:
    """Host copies of what is to be written."""

    def __init__(self) -> None:
        self._pinned: dict[str, torch.Tensor] = {}
        self._streams: dict[torch.device, Any] = {}

    def copy(self, holdings: Mapping[str, Holding], paths: Iterable[str]) -> tuple[dict[str, Holding], "Ready"]:
        """The same holdings, those of `paths` in memory of their own once `ready()` has returned.

        When this returns training may go on, and change every tensor.
        """
        copies = dict(holdings)
        waits: list[Callable[[], object]] = []
        by_device: dict[torch.device, list[str]] = {}
        for path in paths:
            local = holdings[path].local
            if local.device.type == "cuda":
                by_device.setdefault(local.device, []).append(path)
            else:
                copies[path] = replace(holdings[path], local=local.detach().to("cpu", copy=True).contiguous())
        for device, on_device in by_device.items():
            waits.append(self._copy_device(device, on_device, holdings, copies))
        return copies, lambda: [wait() for wait in waits]

    def _copy_device(
        self, device: torch.device, paths: list[str], holdings: Mapping[str, Holding], copies: dict[str, Holding]
    ) -> Callable[[], object]:
        training = torch.cuda.current_stream(device)
        stream = self._streams.setdefault(device, torch.cuda.Stream(device))  # type: ignore[no-untyped-call]  # torch's own
        sources = {path: holdings[path].local.detach() for path in paths}
        has_room = _free(device) > _SPARE * sum(source.nbytes for source in sources.values())
        if has_room:
            sources = {path: source.clone() for path, source in sources.items()}
        stream.wait_stream(training)
        with torch.cuda.stream(stream):
            for path, source in sources.items():
                host = self._host(path, source)
                host.copy_(source, non_blocking=True)
                source.record_stream(stream)
                copies[path] = replace(holdings[path], local=host)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(stream)
        if not has_room:
            training.wait_event(done)
        return done.synchronize

    def _host(self, path: str, source: torch.Tensor) -> torch.Tensor:
        host = self._pinned.get(path)
        if host is None or host.shape != source.shape or host.dtype != source.dtype:
            host = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
            self._pinned[path] = host
        return host


Ready = Callable[[], object]


def unshared(holdings: Mapping[str, Holding]) -> dict[str, Holding]:
    """The holdings with copies of what lies in shared memory, which a fork does not keep as it was."""
    return {
        path: replace(held, local=held.local.detach().clone()) if _is_shared(held.local) else held
        for path, held in holdings.items()
    }


def _free(device: torch.device) -> int:
    free, _ = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + cached)


def _is_shared(tensor: torch.Tensor) -> bool:
    return bool(tensor.is_shared())  # type: ignore[no-untyped-call]  # torch's own
