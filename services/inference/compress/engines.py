"""Engines: what names one, and what a package says of it; pure.

An engine is machine code: it runs only on the class of device, and with the version of the library, that it was built
for. Its key says both, so that whether it can be used is decided before anything is loaded: by the node that is to run
it (`Manifest.choose`), from the forms that `triton_repository.variants` puts in order.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from lepton.errors import InvalidArgument
from lepton.models.package import ENGINES
from services.inference.compress.variants import EngineKind, Precision

FILES: Final[Mapping[EngineKind, str]] = {EngineKind.TENSORRT: "model.plan", EngineKind.AOT_INDUCTOR: "model.pt2"}
FACTS: Final = "engine.json"
_DIGITS: Final = 16
_LONGEST: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The shapes of one input that an engine is built for: the least, the usual and the largest."""

    input: str
    least: tuple[int, ...]
    usual: tuple[int, ...]
    most: tuple[int, ...]

    def __post_init__(self) -> None:
        ordered = all(a <= b <= c for a, b, c in zip(self.least, self.usual, self.most, strict=False))
        if (
            len({len(self.least), len(self.usual), len(self.most)}) != 1
            or not ordered
            or min(self.least, default=1) < 1
        ):
            problem = f"of {self.input} must rise from least to usual to most, all of 1 or more"
            raise InvalidArgument("INVALID_FIELD", fields={"shapes": problem})

    def __str__(self) -> str:
        return f"{self.input}:" + "..".join("x".join(map(str, each)) for each in (self.least, self.usual, self.most))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKey:
    """All that an engine depends on; `str()` is its folder's name, in which model and shapes are shortened digests."""

    kind: EngineKind
    version: str
    device: str
    precision: Precision
    model: str
    shapes: str

    @classmethod
    def of(
        cls, kind: EngineKind, *, version: str, device: str, precision: Precision, model: str, shapes: Sequence[Shape]
    ) -> Self:
        """The key of an engine of the model of that digest, built for those shapes."""
        text = ";".join(sorted(map(str, shapes)))
        return cls(
            kind=kind,
            version=_word(version),
            device=_word(device),
            precision=precision,
            model=model.removeprefix("sha256:")[:_DIGITS],
            shapes=hashlib.sha256(text.encode()).hexdigest()[:_DIGITS],
        )

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key that a folder's name spells; InvalidArgument when it spells none."""
        parts = text.split("_")
        try:
            kind, version, device, precision, model, shapes = parts
            return cls(
                kind=EngineKind(kind),
                version=version,
                device=device,
                precision=Precision(precision),
                model=model,
                shapes=shapes,
            )
        except ValueError as error:
            raise InvalidArgument("INVALID_FIELD", fields={"engine": f"{text[:200]!r} is no engine's key"}) from error

    def __str__(self) -> str:
        return "_".join((self.kind, self.version, self.device, self.precision, self.model, self.shapes))

    @property
    def file(self) -> str:
        """Where it lies in a package."""
        return f"{ENGINES}{self}/{FILES[self.kind]}"


def keys(files: Iterable[str]) -> tuple[EngineKey, ...]:
    """The engines among a package's files, in the order of their names; what is none is passed over."""
    found = []
    for name in sorted(files):
        folder, _, file = name.removeprefix(ENGINES).partition("/")
        if not name.startswith(ENGINES) or file not in FILES.values():
            continue
        try:
            key = EngineKey.parse(folder)
        except InvalidArgument:
            continue
        if FILES.get(key.kind) == file:
            found.append(key)
    return tuple(found)


def facts(profiles: Iterable[Iterable[Shape]], **more: str) -> bytes:
    """What engine.json holds for an engine of these profiles, and `more` that its key shortens."""
    document = [
        [{"input": each.input, "least": each.least, "usual": each.usual, "most": each.most} for each in profile]
        for profile in profiles
    ]
    return json.dumps({**more, "profiles": document}, sort_keys=True, separators=(",", ":")).encode()


def _word(text: str) -> str:
    """The text with nothing in it that separates the parts of a key, or may not stand in a file's name."""
    return re.sub(r"[^a-z0-9.+-]+", "-", text.lower())[:_LONGEST].strip("-.+") or "none"
