"""Structured pruning: whole channels, attention heads and columns are cut out of a module, which is smaller afterwards.

What goes is what the loss would miss least to first order: the square of the sum of weight times gradient over all that
belongs to a unit (Molchanov, Mallya, Tyree, Frosio and Kautz: Importance Estimation for Neural Network Pruning, 2019).
Of every group the same part goes, in several rounds with retuning in between.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor, nn

from lepton.models.image_classifier import Stage
from lepton.models.language_model import Attention, Block, Perceptron
from lepton.models.layers import Heads, Hidden
from lepton.models.text_classifier import Phrases
from services.inference.compress.retuning import Lesson

_FULL_VECTOR: Final = 8
"""Groups of many units keep a multiple of so many: what runs them works on vectors."""


@dataclass(frozen=True, slots=True)
class _Share:
    """Where a group's units lie in one layer: along its outputs, or its inputs from `offset`; a unit is a `block`."""

    layer: nn.Linear | nn.Conv2d
    is_output: bool
    block: int = 1
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Units that can go one by one: each is a share of all the layers named."""

    name: str
    units: int
    shares: tuple[_Share, ...] = field(default=())

    def kept(self, fraction: float) -> int:
        """How many units stay when a fraction goes: one at least."""
        count = max(1, round(self.units * (1 - fraction)))
        if self.units < 2 * _FULL_VECTOR or count < _FULL_VECTOR:
            return count
        return round(count / _FULL_VECTOR) * _FULL_VECTOR


def groups(model: nn.Sequential) -> tuple[Group, ...]:
    """What can be cut out of a chain of layers of ours: between neighbours, and inside transformer blocks."""
    return (*_between(model), *_inside(model))


def _between(model: nn.Sequential) -> Iterator[Group]:
    layers = list(model.named_children())
    for (name, before), (_, after) in itertools.pairwise(layers):
        maker, consumers = _maker(before), _consumers(after)
        if maker is None or not consumers:
            continue
        units = maker.out_channels if isinstance(maker, nn.Conv2d) else maker.out_features
        taken = [each.in_channels if isinstance(each, nn.Conv2d) else each.in_features for each in consumers]
        if isinstance(before, Phrases):
            blocks = [1 for _ in taken]  # the largest of each feature comes first, the mean of the tokens stays
        elif all(count % units == 0 for count in taken):
            blocks = [count // units for count in taken]  # a channel is a block of what the flattened picture holds
        else:
            continue
        shares = [_Share(each, is_output=False, block=block) for each, block in zip(consumers, blocks, strict=True)]
        yield Group(name, units, (_Share(maker, is_output=True), *shares))


def _maker(layer: nn.Module) -> nn.Linear | nn.Conv2d | None:
    if isinstance(layer, Stage):
        return layer.convolution
    return layer.linear if isinstance(layer, Hidden | Phrases) else None


def _consumers(layer: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    if isinstance(layer, Stage):
        return [layer.convolution]
    if isinstance(layer, Hidden):
        return [layer.linear]
    if isinstance(layer, Heads):
        return [each for each in layer.each if isinstance(each, nn.Linear)]
    return [layer] if isinstance(layer, nn.Linear) else []


def _inside(model: nn.Sequential) -> Iterator[Group]:
    for name, block in model.named_children():
        if not isinstance(block, Block):
            continue
        attention, perceptron = block.attention, block.perceptron
        assert isinstance(attention, Attention)
        assert isinstance(perceptron, Perceptron)
        size, mixing = attention.size, (attention.query, attention.key, attention.value)
        heads = attention.query.out_features // size
        shares = [_Share(each, is_output=True, block=size) for each in mixing]
        yield Group(f"{name}.heads", heads, (*shares, _Share(attention.project, is_output=False, block=size)))
        ends = (_Share(perceptron.up, is_output=True), _Share(perceptron.down, is_output=False))
        yield Group(f"{name}.columns", perceptron.up.out_features, ends)


def prune(model: nn.Sequential, fraction: float, lesson: Lesson, seed: int = 0) -> dict[str, tuple[int, int]]:
    """Cuts a fraction of the units of every group out: those that the lesson's loss would miss least.

    Answers how many units each group had and has.
    """
    found = groups(model)
    if not found:
        return {}
    importance = [torch.zeros(group.units) for group in found]
    for loss in lesson.losses(model, seed):
        model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        for group, sums in zip(found, importance, strict=True):
            sums += _contribution(group).square()
    model.zero_grad(set_to_none=True)
    counts: dict[str, tuple[int, int]] = {}
    for group, sums in zip(found, importance, strict=True):
        kept = group.kept(fraction)
        stay = sums.topk(kept).indices.sort().values
        with torch.no_grad():
            for share in group.shares:
                _cut(share, group.units, stay)
        counts[group.name] = (group.units, kept)
    return counts


def _contribution(group: Group) -> Tensor:
    """Of every unit the sum of weight times gradient over all of its shares."""
    total = torch.zeros(group.units)
    for share in group.shares:
        weight = share.layer.weight
        if weight.grad is None:
            continue
        product = (weight * weight.grad).detach()
        dimension = 0 if share.is_output else 1
        sums = product.movedim(dimension, 0).flatten(1).sum(1)[share.offset :][: group.units * share.block]
        total += sums.reshape(group.units, share.block).sum(1)
        bias = share.layer.bias
        if share.is_output and bias is not None and bias.grad is not None:
            total += (bias * bias.grad).detach().reshape(group.units, share.block).sum(1)
    return total


def _cut(share: _Share, units: int, stay: Tensor) -> None:
    layer, dimension = share.layer, 0 if share.is_output else 1
    inner = (stay[:, None] * share.block + torch.arange(share.block)).flatten() + share.offset
    end = share.offset + units * share.block
    size = layer.weight.shape[dimension]
    index = torch.cat([torch.arange(share.offset), inner, torch.arange(end, size)])
    layer.weight = nn.Parameter(layer.weight.index_select(dimension, index).clone())
    if share.is_output and layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.index_select(0, index).clone())
    _resize(layer, len(index), is_output=share.is_output)


def _resize(layer: nn.Linear | nn.Conv2d, size: int, *, is_output: bool) -> None:
    if isinstance(layer, nn.Conv2d):
        layer.out_channels, layer.in_channels = (size, layer.in_channels) if is_output else (layer.out_channels, size)
    else:
        layer.out_features, layer.in_features = (size, layer.in_features) if is_output else (layer.out_features, size)


def parameters(model: nn.Module) -> int:
    """How many numbers a module's weights are."""
    return sum(each.numel() for each in model.parameters())
