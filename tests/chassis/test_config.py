"""Settings from TOML and the environment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from chassis.config import ConfigError, ServiceConfig, load


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    endpoints: tuple[str, ...] = ("127.0.0.1:2379",)
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GreeterConfig(ServiceConfig):
    service: str = "greeter"
    store: Store = field(default_factory=Store)
    folder: Path = Path("/var/lib/greeter")
    mode: Literal["calm", "eager"] = "calm"
    limit: int | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    token: str


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "greeter.toml"
    path.write_text('token = "t"\n[listen]\nclient = "127.0.0.1:1"\n[store]\nendpoints = ["a", "b"]\ntimeout_s = 2\n')
    return path


def test_the_file_overrides_defaults_and_the_environment_overrides_the_file(file: Path) -> None:
    environ = {
        "LEPTON_GREETER_STORE__TIMEOUT_S": "3.5",
        "LEPTON_GREETER_PEERS__AUTH": "127.0.0.1:7002",
        "LEPTON_GREETER_LIMIT": "4",
        "LEPTON_GREETER_TOKEN": "123",
        "LEPTON_GREETER_FOLDER": "/tmp/greeter",
        "LEPTON_GREETER_WEIGHTS": '{"a": 1}',
        "UNRELATED": "x",
    }
    config = load(GreeterConfig, file, env_prefix="LEPTON_GREETER_", environ=environ)
    assert config.store == Store(endpoints=("a", "b"), timeout_s=3.5)
    assert (config.listen.client, config.listen.admin) == ("127.0.0.1:1", "127.0.0.1:0")
    assert config.peers == {"auth": "127.0.0.1:7002"}
    assert (config.limit, config.token, config.folder) == (4, "123", Path("/tmp/greeter"))
    assert config.weights == {"a": 1.0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('token = "t"\ntypo = 1', "unknown setting typo"),
        ('token = "t"\n[store]\nendpoint = []', "unknown setting store.endpoint"),
        ("", "missing setting token"),
        ("token = 5", "token must be str, not int"),
        ('token = "t"\nlimit = true', "limit must be int, not bool"),
        ('token = "t"\nmode = "wild"', "mode must be one of calm, eager"),
        ('token = "t"\nstore = 1', "store must be a section"),
        ('token = "t"\n[store]\nendpoints = "a"', "store.endpoints must be a list"),
        ('token = "t"\n[store]\nendpoints = [1]', r"store.endpoints\[0\] must be str"),
        ("token = ", "cannot read"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "greeter.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load(GreeterConfig, path)


def test_an_unknown_variable_is_named(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown setting listen\.clent"):
        load(GreeterConfig, file, env_prefix="LEPTON_GREETER_", environ={"LEPTON_GREETER_LISTEN__CLENT": "x"})
