"""The profile: found, overridden, written whole, and remembering the project."""

from pathlib import Path

import pytest

from lepton.errors import FailedPrecondition
from lepton.profile import Profile, choose_project, home, write


def profile(folder: Path, **changes: str) -> Profile:
    services = ("auth", "scheduler", "trainer", "inference", "gateway")
    endpoints = {service: f"127.0.0.1:{number}" for number, service in enumerate(services, 7001)} | changes
    return Profile(**endpoints, trust_bundle=folder / "ca.pem", folder=folder)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = profile(tmp_path, traces="http://127.0.0.1:1", otlp="http://127.0.0.1:2").with_project("acme")
    written.save()
    assert Profile.load(tmp_path / "profile.toml", environment={}) == written
    assert [path.name for path in tmp_path.iterdir()] == ["profile.toml"]
    assert written.credentials_file == tmp_path / "credentials.json"


def test_a_rewritten_profile_keeps_the_project_that_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "profile.toml"
    write(file, profile(tmp_path))
    monkeypatch.setenv("LEPTON_PROFILE", str(file))
    monkeypatch.setenv("LEPTON_AUTH", "elsewhere:1")  # must not become permanent
    choose_project("acme")
    write(file, profile(tmp_path, auth="127.0.0.1:8001"))
    read = Profile.load(file, environment={})
    assert (read.project, read.auth) == ("acme", "127.0.0.1:8001")


def test_the_environment_overrides_single_values(tmp_path: Path) -> None:
    write(tmp_path / "profile.toml", profile(tmp_path))
    read = Profile.load(tmp_path / "profile.toml", environment={"LEPTON_GATEWAY": "gw:9", "LEPTON_PROJECT": "other"})
    assert (read.gateway, read.project, read.auth) == ("gw:9", "other", "127.0.0.1:7001")


def test_the_state_directory_is_found_upwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = tmp_path / "checkout" / "src"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    monkeypatch.delenv("LEPTON_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path / ".lepton"
    write(tmp_path / "checkout" / ".lepton" / "profile.toml", profile(tmp_path))
    assert home() == tmp_path / "checkout" / ".lepton"
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "else"))
    assert home() == tmp_path / "else"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[endpoints", "PROFILE_INVALID"),
        ("[endpoints]\nauth = 'a:1'\n", "PROFILE_INVALID"),
        ("[endpoints]\nwrong = 'a:1'\n[tls]\ntrust_bundle = 'ca.pem'\n", "PROFILE_INVALID"),
    ],
)
def test_a_bad_profile_says_what_is_wrong(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "profile.toml").write_text(text)
    with pytest.raises(FailedPrecondition, match=problem):
        Profile.load(tmp_path / "profile.toml", environment={})


def test_a_missing_profile_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="lepton up"):
        Profile.load(tmp_path / "profile.toml")
