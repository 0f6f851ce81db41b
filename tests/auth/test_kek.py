"""What the key-encryption key seals opens only with it, and only where it was sealed."""

from pathlib import Path

import pytest

from services.auth.kek import Kek, KekError, write_secret


def test_a_sealed_key_opens_only_with_its_kek_and_in_its_place() -> None:
    kek, other = Kek(b"k" * 32), Kek(b"o" * 32)
    sealed = kek.seal(b"private", "/a")
    assert b"private" not in sealed.ciphertext
    assert kek.open(sealed, "/a") == b"private"
    with pytest.raises(KekError, match="altered"):
        kek.open(sealed, "/b")
    with pytest.raises(KekError, match="sealed by key"):
        other.open(sealed, "/a")
    sealed.ciphertext = sealed.ciphertext[:-1] + bytes([sealed.ciphertext[-1] ^ 1])
    with pytest.raises(KekError, match="altered"):
        kek.open(sealed, "/a")


def test_derived_secrets_differ_by_purpose_and_not_by_replica() -> None:
    assert Kek(b"k" * 32).derive("a") == Kek(b"k" * 32).derive("a")
    assert Kek(b"k" * 32).derive("a") != Kek(b"k" * 32).derive("b")


def test_a_secret_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "secret"
    assert write_secret(path, "first")
    assert not write_secret(path, "second")
    assert path.read_text() == "first\n"
    assert [each.name for each in path.parent.iterdir()] == ["secret"]


@pytest.mark.parametrize("content", ["", "zz", "00" * 31])
def test_a_broken_kek_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "kek").write_text(content)
    with pytest.raises(KekError):
        Kek.load(tmp_path / "kek")
