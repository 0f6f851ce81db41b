"""Running a rank's program as this process's `__main__`, so that nothing of it is torn down before the process ends.

Destroying a torch process group joins its threads while holding the interpreter's lock, and a thread that needs the
lock to end then waits for ever: 12 of 120 gangs of two hung so at the end of their script (torch 2.13, gloo); under
torchrun some abort. So neither the program's globals nor its process groups are destroyed here; the operating system
takes them back.
"""

import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

_KEPT: Final[list[object]] = []
_OURS: Final = ("services", "chassis", "deploy", "bench", "tests", "lepton")


def run_program(entry: str, argv: Sequence[str]) -> None:
    """Runs a script (a path) as `python script` does, or a module (a dotted name) as `python -m module` does."""
    main = ModuleType("__main__")
    _KEPT.extend((sys.modules["__main__"], main))
    sys.modules["__main__"] = main
    sys.argv = [entry, *argv]
    _keep_process_groups()
    is_script = entry.endswith(".py") or "/" in entry
    path = Path(entry).resolve()
    beside = path.parent if is_script else Path.cwd()
    sys.path.insert(0, str(beside))
    _make_room(beside)
    if is_script:
        main.__dict__.update(__file__=entry, __builtins__=__builtins__)
        exec(compile(path.read_bytes(), entry, "exec"), main.__dict__)  # noqa: S102  # what a launcher is for
    else:
        main.__dict__["__builtins__"] = __builtins__
        run_module_as_main: Callable[[str], object] = runpy._run_module_as_main  # type: ignore[attr-defined]  # noqa: SLF001
        run_module_as_main(entry)  # the public run_module tears the module down at its end


def _make_room(folder: Path) -> None:
    # A program's own package goes before one of ours that has its name and was imported ahead of it.
    for name in _OURS:
        if (folder / name).is_dir() or (folder / f"{name}.py").is_file():
            ours = [each for each in sys.modules if each == name or each.startswith(f"{name}.")]
            _KEPT.extend(sys.modules.pop(each) for each in ours)


def _keep_process_groups() -> None:
    # To be removed once a ProcessGroupGloo can be destroyed while the interpreter's lock is held.
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None:
        return
    groups: Any = sys.modules["torch.distributed.distributed_c10d"]
    destroy: Callable[..., None] = groups.destroy_process_group

    def destroy_process_group(group: Any = None) -> None:
        _KEPT.extend(groups._world.pg_map)  # noqa: SLF001
        destroy(group)

    groups.destroy_process_group = distributed.destroy_process_group = destroy_process_group
