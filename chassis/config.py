"""Settings: frozen dataclasses read from TOML and the environment; what is not known is an error that names it."""

import dataclasses
import enum
import json
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from chassis.rates import rates_with

Config = TypeVar("Config")


class ConfigError(Exception):
    """A setting that is unknown, missing, or of the wrong kind; the message says which and where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where a service listens; port 0 means any. Empty admin or metrics addresses switch those off."""

    client: str = "127.0.0.1:0"  # server TLS, bearer tokens
    mesh: str = "127.0.0.1:0"  # mutual TLS, SPIFFE peers
    admin: str = "127.0.0.1:0"  # loopback, plaintext: channelz, health, reflection
    metrics: str = "127.0.0.1:0"  # loopback, HTTP: /metrics
    ports_file: str = ""  # where to write the ports as JSON once serving


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """Where spans go."""

    otlp_endpoint: str = ""  # empty = no tracing; https:// for TLS
    otlp_certificate: str = ""  # PEM file of the authorities that the collector's may be of; empty = the mesh's
    sample_ratio: float = 0.01
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_form: Literal["json", "console"] = "json"
    access_log: Literal["all", "changes", "failures"] = "changes"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentitySettings:
    """How a service proves itself to the mesh."""

    state_dir: str = ""  # keeps the key and certificate, so that a restart needs no new token
    trust_bundle: str = ""  # PEM file with the authorities to trust
    auth_address: str = ""  # auth's client port
    join_token: str = ""
    join_token_file: str = ""
    hosts: tuple[str, ...] = ()  # further DNS names and IP addresses of the certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one caller may ask for."""

    rate_per_s: float = 500.0  # calls of one principal; 0 = unlimited
    burst: float = 1000.0
    project_rate_per_s: float = 2000.0  # calls on what lies in one project, whoever makes them; 0 = unlimited
    project_burst: float = 4000.0
    rates: Mapping[str, float] = field(default_factory=dict)  # by kind of method (chassis.rates): calls a second
    streams: int = 512  # open at once, of one principal
    project_streams: int = 2048
    drain_s: float = 10.0  # how long calls in flight may take after SIGTERM

    def __post_init__(self) -> None:
        try:
            rates_with(self.rates)
        except ValueError as error:
            raise ConfigError(str(error)) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSettings:
    """Where what was done is written down before auth has it, and what happens when there is no room."""

    spool_dir: str = ""  # empty = `audit` in identity.state_dir; no other process may use it
    spool_bytes: int = 256 << 20  # how much may wait for auth
    when_full: Literal["refuse", "buffer"] = "refuse"  # mutations, when the disk is full or broken
    buffer_records: int = 10_000  # how many records memory holds at the most, where it has to


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """What every service's configuration has; a service's own dataclass extends it and sets `service`."""

    service: str
    listen: Listen = field(default_factory=Listen)
    telemetry: Telemetry = field(default_factory=Telemetry)
    identity: IdentitySettings = field(default_factory=IdentitySettings)
    limits: Limits = field(default_factory=Limits)
    audit: AuditSettings = field(default_factory=AuditSettings)
    peers: Mapping[str, str] = field(default_factory=dict)  # service -> "host:port[,host:port]" of its mesh port


def load(
    config_type: type[Config],
    path: str | Path | None = None,
    *,
    env_prefix: str = "",
    environ: Mapping[str, str] | None = None,
) -> Config:
    """The configuration in a TOML file, overridden by variables `<PREFIX><SECTION>__<KEY>`."""
    try:
        values = tomllib.loads(Path(path).read_text()) if path is not None else {}
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if env_prefix:
        for name, text in (environ or {}).items():
            if name.startswith(env_prefix):
                _override(config_type, values, name.removeprefix(env_prefix).lower().split("__"), text, name)
    built: Config = _build(config_type, values, "")
    return built


def _override(config_type: Any, values: dict[str, Any], path: list[str], text: str, name: str) -> None:
    for key in path[:-1]:
        config_type = _hints(config_type).get(key) if dataclasses.is_dataclass(config_type) else None
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{name}: {key} is not a section")
        values = inner
    hint = _hints(config_type).get(path[-1], str) if dataclasses.is_dataclass(config_type) else str
    values[path[-1]] = text if _is_text(hint) else _parsed(text)


def _is_text(hint: Any) -> bool:
    return (
        hint is str
        or hint is Path
        or get_origin(hint) is Literal
        or (isinstance(hint, type) and issubclass(hint, enum.Enum))
    )


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _hints(config_type: Any) -> dict[str, Any]:
    return typing.get_type_hints(config_type)


def _build(config_type: Any, values: Any, path: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path or 'the configuration'} must be a section")
    hints = _hints(config_type)
    known = {each.name: each for each in dataclasses.fields(config_type)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(f"unknown setting {_join(path, unknown[0])}; known here: {', '.join(sorted(known))}")
    for each in known.values():
        is_required = each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
        if is_required and each.name not in values:
            raise ConfigError(f"missing setting {_join(path, each.name)}")
    return config_type(**{name: _value(hints[name], value, _join(path, name)) for name, value in values.items()})


def _value(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, path)
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        choices = [each for each in args if each is not type(None)]
        return None if value is None else _value(choices[0], value, path)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{path} must be one of {', '.join(map(str, args))}")
        return value
    if origin in (tuple, list, frozenset, set) or (isinstance(origin, type) and issubclass(origin, typing.Sequence)):
        if not isinstance(value, list):
            raise ConfigError(f"{path} must be a list")
        items = [_value(args[0], item, f"{path}[{index}]") for index, item in enumerate(value)]
        return items if origin is list else (frozenset(items) if origin in (frozenset, set) else tuple(items))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path} must be a section")
        return {key: _value(args[1], item, _join(path, key)) for key, item in value.items()}
    return _scalar(hint, value, path)


def _scalar(hint: Any, value: Any, path: str) -> Any:
    if hint is Any:
        return value
    if hint is Path and isinstance(value, str):
        return Path(value).expanduser()
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        try:
            return hint(value)
        except ValueError:
            raise ConfigError(f"{path} must be one of {', '.join(str(each.value) for each in hint)}") from None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise ConfigError(f"{path} must be {hint.__name__}, not {type(value).__name__}")
    return value


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
