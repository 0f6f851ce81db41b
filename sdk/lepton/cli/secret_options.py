"""`--secret`: which secrets a program is given, and where it finds them."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import typer

FORM: Final = "SECRET=env:NAME or SECRET@VERSION=file:PATH"
HELP: Final = f"A secret that it is given: {FORM}, below $LEPTON_SECRETS. See `lepton secrets`."
_MOUNT: Final = re.compile(r"([a-z0-9/A-Z-]+)(?:@([1-9][0-9]{0,8}))?=(env|file):(.+)", re.ASCII)


def secret_mounts(wishes: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The fields of a SecretMount for each wish; BadParameter when one cannot be read."""
    for wish in wishes:
        match = _MOUNT.fullmatch(wish)
        if match is None:
            shown = wish.partition("=")[0]  # behind it may stand what somebody took for the place of the value
            raise typer.BadParameter(
                f"--secret {shown}=.. cannot be read; write {FORM}, for example db-password=env:DB_PASSWORD. "
                "A value never stands here: `lepton secrets create` takes it."
            )
        secret, version, kind, place = match.groups()
        yield {"secret": secret, "version": int(version or 0), kind: place}
