"""The expressions of symbolic sizes in an exported program: arithmetic, and nothing else that Python could evaluate.

torch writes them as sympy prints them (`2*s31`, or `Mul(Integer(2), Symbol('s31', positive=True, integer=True))`) and
reads them with sympy.sympify, which evaluates Python. Here they are parsed, never evaluated.
"""

import ast
import re
from typing import Final

_MOST_CHARACTERS: Final = 4096
_LARGEST: Final = 1 << 63
_HIGHEST_POWER: Final = 16
_SYMBOL: Final = re.compile(r"(s|u|zf|zuf)[0-9]{1,6}")
_CONSTANTS: Final = frozenset({"true", "false", "oo", "int_oo"})
_ASSUMPTIONS: Final = frozenset({"positive", "integer", "nonnegative", "nonzero", "real", "finite", "negative"})
_FUNCTIONS: Final = frozenset(
    {
        "Abs", "Add", "And", "CeilDiv", "CleanDiv", "Eq", "Equality", "Float", "FloatTrueDiv", "FloorDiv", "Ge",
        "GreaterThan", "Gt", "Identity", "IntTrueDiv", "Integer", "Le", "LessThan", "Lt", "Max", "Min", "Mod", "Mul",
        "Ne", "Not", "Or", "Piecewise", "Pow", "PowByNatural", "PythonMod", "Rational", "StrictGreaterThan",
        "StrictLessThan", "ToFloat", "TruncToFloat", "TruncToInt", "Unequality", "Where", "ceiling", "floor",
    }
)  # fmt: skip
_POWERS: Final = frozenset({"Pow", "PowByNatural"})
_OPERATORS: Final = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.UAdd, ast.USub, ast.Not)
_COMPARISONS: Final = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)


def is_arithmetic(text: str) -> bool:
    """Whether an expression is made of sizes, numbers and the functions that sizes are computed with."""
    if len(text) > _MOST_CHARACTERS:
        return False
    try:
        return _accepts(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _accepts(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=bool()):
            return True
        case ast.Constant(value=int() | float() as value):
            return abs(value) <= _LARGEST
        case ast.Name(id=name):
            return name in _CONSTANTS or _SYMBOL.fullmatch(name) is not None
        case ast.BinOp(left=left, op=op, right=right):
            if isinstance(op, ast.Pow) and not _is_power(left, right):
                return False
            return isinstance(op, _OPERATORS) and _accepts(left) and _accepts(right)
        case ast.UnaryOp(op=op, operand=operand):
            return isinstance(op, _OPERATORS) and _accepts(operand)
        case ast.Compare(left=left, ops=ops, comparators=others):
            return all(isinstance(op, _COMPARISONS) for op in ops) and all(map(_accepts, (left, *others)))
        case ast.BoolOp(values=values):
            return all(map(_accepts, values))
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str() as name)], keywords=keywords):
            return _SYMBOL.fullmatch(name) is not None and all(map(_is_assumption, keywords))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            if name in _POWERS and not (len(arguments) == 2 and _is_power(*arguments)):
                return False
            return all(map(_accepts, arguments))
        case _:
            return False


def _is_assumption(keyword: ast.keyword) -> bool:
    return (
        keyword.arg in _ASSUMPTIONS and isinstance(keyword.value, ast.Constant) and keyword.value.value in (True, False)
    )


def _is_power(base: ast.expr, exponent: ast.expr) -> bool:
    """A power that is computed at once: a small exponent, and no power of a power."""
    if isinstance(exponent, ast.Call) and len(exponent.args) == 1:  # Integer(2)
        exponent = exponent.args[0]
    if isinstance(exponent, ast.UnaryOp):
        exponent = exponent.operand
    is_small = isinstance(exponent, ast.Constant) and isinstance(exponent.value, int)
    inner = {type(node) for node in ast.walk(base)} | {
        node.func.id for node in ast.walk(base) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    return is_small and abs(exponent.value) <= _HIGHEST_POWER and not inner & {ast.Pow, *_POWERS}  # type: ignore[attr-defined]
