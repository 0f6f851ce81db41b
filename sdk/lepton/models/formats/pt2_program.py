"""The graph of an exported program (`models/<name>.json` of a .pt2 archive), checked before torch reads it.

torch.export.load trusts that file: it evaluates the expressions of symbolic sizes (sympy.sympify), runs the guards as
Python, looks operators up by any dotted name, and imports what a tree specification names. So only what an exported
program needs is let through: known operators, plain names, arithmetic of sizes. Metadata and guards are left out, for
neither changes what a program answers. Schema: torch/_export/serde/schema.py.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from lepton.models.formats.limits import invalid
from lepton.models.formats.size_expression import is_arithmetic

_KIND: Final = "pt2 archive"
_DEPTH: Final = 64
_VALUES: Final = 5_000_000

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_PATH: Final = re.compile(r"[A-Za-z0-9_.]{0,1024}")
_OPERATOR: Final = re.compile(
    r"torch\.ops\.(aten|prims|quantized_decomposed)\.(?!__)[A-Za-z0-9_]+(\.[A-Za-z0-9]\w*)?"
    r"|torch\.ops\.aten\.__(and|or|xor|lshift|rshift)__\.\w+"
    r"|torch\.ops\.higher_order\.(cond|map_impl|while_loop|scan|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|pow|neg|lt|le|gt|ge|eq|ne|and_|or_|xor|not_)"
    r"|torch\.(sym_(int|float|max|min|not|ite|sum)|_sym_sqrt)"
    r"|math\.(trunc|ceil|floor|sqrt)"
)
_OPENS_FILES: Final = ("from_file",)
_TREES: Final = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"})
_EMPTY: Final = ("metadata", "guards_code", "treespec_namedtuple_fields")
_NO_OBJECTS: Final = frozenset({"as_custom_obj", "custom_obj", "as_opaque_obj", "class_fqn"})


def cleaned(data: bytes, file: str) -> bytes:
    """The program without metadata and guards, checked. Raises InvalidArgument (MODEL_FILE_INVALID)."""
    document = _without(_parse(data, file))
    _check(document, file)
    return json.dumps(document, separators=(",", ":")).encode()


def check_program(data: bytes, file: str) -> None:
    """Checks a program that has been cleaned. Raises InvalidArgument (MODEL_FILE_INVALID)."""
    _check(_parse(data, file), file)


def _parse(data: bytes, file: str) -> Any:
    try:
        document = json.loads(data)
        if not isinstance(document, dict) or not isinstance(document["graph_module"], dict):
            raise ValueError("it holds no graph")
    except (ValueError, KeyError, RecursionError) as error:
        raise invalid(file, _KIND, f"its program cannot be read: {str(error)[:200]}") from error
    return document


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _blank(item) if key in _EMPTY else _without(item) for key, item in value.items()}
    return [_without(item) for item in value] if isinstance(value, list) else value


def _blank(value: Any) -> Any:
    return type(value)() if isinstance(value, dict | list) else value


def _check(document: Any, file: str) -> None:
    stack: list[tuple[str, Any, int]] = [("", document, 0)]
    seen = 0
    while stack:
        key, value, depth = stack.pop()
        seen += 1
        if depth > _DEPTH or seen > _VALUES:
            raise invalid(file, _KIND, "its program is too large or too deep")
        if (problem := _problem(key, value)) is not None:
            raise invalid(file, _KIND, f"its program {problem}")
        if isinstance(value, dict):
            stack += [(str(name), item, depth + 1) for name, item in value.items()]
        elif isinstance(value, list):
            stack += [(key, item, depth + 1) for item in value]


def _problem(key: str, value: Any) -> str | None:
    if key in _EMPTY:
        return f"has {key}, which `lepton models import` leaves out" if value else None
    if key in _NO_OBJECTS:
        return f"holds an object that would be unpickled ({key})" if value else None
    check = _CHECKS.get(key)
    return check(value) if check is not None and isinstance(value, str) else None


def _operator(text: str) -> str | None:
    if _OPERATOR.fullmatch(text) is None or text.split(".")[3:4] in ([name] for name in _OPENS_FILES):
        return f"calls {text[:100]!r}, which is no operator that is run here"
    return None


def _name(text: str) -> str | None:
    return None if not text or _NAME.fullmatch(text) else f"has the name {text[:100]!r}"


def _path(text: str) -> str | None:
    return None if _PATH.fullmatch(text) else f"has the name {text[:100]!r}"


def _expression(text: str) -> str | None:
    return None if is_arithmetic(text) else f"has the size {text[:100]!r}, which is no arithmetic of sizes"


def _tree(text: str) -> str | None:
    try:
        stack = [json.loads(text)[1]]
        while stack:
            node = stack.pop()
            _check_tree(node)
            stack += node["children_spec"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        return f"takes or gives a structure that is not known ({str(error)[:100]})"
    return None


def _check_tree(node: Mapping[str, Any]) -> None:
    if node["type"] not in _TREES:
        raise ValueError(str(node["type"])[:80])
    context = node["context"]
    if context is not None and not isinstance(json.loads(context), list | None):
        raise ValueError("a context that is no list of names")


_CHECKS: Final[Mapping[str, Callable[[str], str | None]]] = {
    "target": _operator,
    "as_operator": _operator,
    "expr_str": _expression,
    "name": _name,
    "as_name": _name,
    "forward_arg_names": _name,
    "parameter_name": _path,
    "buffer_name": _path,
    "tensor_constant_name": _path,
    "user_input_name": _name,
    "fqn": _path,
    "in_spec": _tree,
    "out_spec": _tree,
}
