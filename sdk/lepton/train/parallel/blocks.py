"""A model's blocks: the modules it is a sequence of, which are gathered, cut and dealt out one by one."""

from torch import nn


def blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The outermost sequences' elements that have parameters, by name and in order; {} where there is no sequence."""
    found: dict[str, nn.Module] = {}
    _collect(model, "", found)
    return found


def _collect(module: nn.Module, path: str, found: dict[str, nn.Module]) -> None:
    is_sequence = isinstance(module, nn.ModuleList | nn.Sequential)
    for name, child in module.named_children():
        if is_sequence and len(list(module.children())) > 1:
            if any(True for _ in child.parameters()):
                found[path + name] = child
        else:
            _collect(child, f"{path}{name}.", found)
