"""Owns the filter that decides about each call: the policy as a table of Lua, before the script that asks it."""

import re
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Final

from services.inference.envoy.access import CallRules

_PLAIN: Final = re.compile(rb"[A-Za-z0-9_./@:*+-]*")


def policy_source(rules: CallRules) -> str:
    """The whole script. Every table is a constant of the compiler, so that 10,000 principals cost no more than one."""
    script = resources.files(__package__).joinpath("policy.lua").read_text()
    tables = {
        "grants": _scopes(rules.grants),
        "known": _scopes(rules.known),
        "tokens": _set(rules.revoked_tokens),
        "sessions": _set(rules.revoked_sessions),
        "principals": {principal: f"{before:.0f}" for principal, before in rules.revoked_principals.items()},
    }
    named = "\n".join(f"local {name} = {_table(entries)}" for name, entries in tables.items())
    fields = ", ".join(f"{name} = {name}" for name in tables)
    return f"{named}\nlocal rules = {{ {fields} }}\n{script}"


def _scopes(held: Mapping[str, frozenset[str]]) -> dict[str, str]:
    return {principal: _text(f" {' '.join(sorted(scopes))} ") for principal, scopes in held.items()}


def _set(names: Iterable[str]) -> dict[str, str]:
    return dict.fromkeys(names, "true")


def _table(entries: Mapping[str, str]) -> str:
    return "{" + ",".join(f"[{_text(key)}]={entries[key]}" for key in sorted(entries)) + "}"


def _text(text: str) -> str:
    """A string of Lua: whatever is not plain is written as its byte, so that no name can end the string."""
    raw = text.encode()
    if _PLAIN.fullmatch(raw.replace(b" ", b"")):
        return f'"{text}"'
    return '"' + "".join(f"\\{byte:03d}" for byte in raw) + '"'
