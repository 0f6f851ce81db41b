"""Sending named tensors from one rank to another, whatever their shapes: a header in JSON, then each tensor."""

import json
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor


def send(
    tensors: Mapping[str, Tensor], to: int, *, device: torch.device, group: dist.ProcessGroup | None = None
) -> None:
    """Sends to a rank of the gang, which must call `receive`; `device` is where both have the tensors."""
    description = [[name, str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in tensors.items()]
    header = torch.frombuffer(bytearray(json.dumps(description).encode()), dtype=torch.uint8).to(device)
    dist.send(torch.tensor([len(header)], device=device), to, group=group)
    dist.send(header, to, group=group)
    for tensor in tensors.values():
        if tensor.numel():
            dist.send(tensor.detach().to(device).contiguous(), to, group=group)


def receive(source: int, *, device: torch.device, group: dist.ProcessGroup | None = None) -> dict[str, Tensor]:
    """What the rank `source` of the gang sends."""
    size = torch.zeros(1, dtype=torch.int64, device=device)
    dist.recv(size, source, group=group)
    header = torch.zeros(int(size), dtype=torch.uint8, device=device)
    dist.recv(header, source, group=group)
    tensors: dict[str, Tensor] = {}
    for name, dtype, shape in json.loads(bytes(header.cpu().tolist())):
        tensor = torch.empty(shape, dtype=getattr(torch, dtype), device=device)
        if tensor.numel():
            dist.recv(tensor, source, group=group)
        tensors[name] = tensor
    return tensors
