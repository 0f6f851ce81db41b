"""The engines of a package as a server sees them: what each was built for, and what that asks of a node; pure."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from lepton.errors import InvalidArgument
from lepton.models import Signature
from lepton.models.package import ENGINES, GOLDEN
from services.inference.compress.engines import FACTS, EngineKey, Shape, keys
from services.inference.triton_repository.options import ServingOptions

USUAL_ROWS: Final = (1, 8, 64)
"""Least, usual and most rows of an engine that is built for the free batch of a signature and says nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltEngine:
    """One engine: its key, its file and the shapes of its optimisation profiles."""

    key: EngineKey
    file: str
    """Digest of the artifact."""
    profiles: tuple[tuple[Shape, ...], ...]
    golden: str = ""
    """Digest of golden requests with its own answers; empty = it has to give the model's."""

    @classmethod
    def of(cls, key: EngineKey, file: str, signature: Signature, facts: bytes = b"") -> Self | None:
        """The engine of a package with that signature; `facts` is its engine.json. None when it cannot serve it.

        It can where every profile takes exactly the signature's inputs and, where they have a free batch, single rows.
        Raises InvalidArgument for facts that are malformed.
        """
        profiles = _profiles(facts) if facts else (_usual(signature),)
        if (
            not facts
            and EngineKey.of(
                key.kind,
                version=key.version,
                device=key.device,
                precision=key.precision,
                model=key.model,
                shapes=profiles[0],
            )
            != key
        ):
            return None  # it was built for other shapes, and nobody says for which
        made = cls(key=key, file=file, profiles=profiles)
        return made if made._serves(signature) else None

    @property
    def max_batch(self) -> int:
        """The largest first dimension that every input may have."""
        return max(min(shape.most[0] for shape in profile) for profile in self.profiles)

    @property
    def usual_batches(self) -> tuple[int, ...]:
        """The first dimensions that the profiles are tuned for, rising."""
        return tuple(sorted({shape.usual[0] for profile in self.profiles for shape in profile}))

    def fit(self, options: ServingOptions) -> ServingOptions:
        """The options as far as the engine can follow them: batches that it takes, those it is tuned for preferred."""
        largest = min(options.max_batch, self.max_batch)
        preferred = options.preferred_batches or tuple(size for size in self.usual_batches if size > 1)
        kept = tuple(size for size in preferred if size <= largest)
        return replace(options, max_batch=largest, preferred_batches=kept)

    def _serves(self, signature: Signature) -> bool:
        names = {tensor.name for tensor in signature.inputs}
        if any({shape.input for shape in profile} != names for profile in self.profiles):
            return False
        if any(tensor.shape[:1] != (-1,) for tensor in (*signature.inputs, *signature.outputs)):
            return True
        return any(all(shape.least[0] == 1 for shape in profile) for profile in self.profiles)


def places(files: Iterable[str]) -> list[tuple[EngineKey, str, str]]:
    """The engines among a package's files: each with where its facts and its own golden requests would lie."""
    return [(key, f"{ENGINES}{key}/{FACTS}", f"{ENGINES}{key}/{GOLDEN}") for key in keys(files)]


def _profiles(data: bytes) -> tuple[tuple[Shape, ...], ...]:
    try:
        document = json.loads(data)
        found = tuple(tuple(map(_shape, profile)) for profile in document["profiles"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidArgument("MODEL_PACKAGE_INVALID", problem=f"{FACTS}: {error}") from error
    if not found or not all(found):
        raise InvalidArgument("MODEL_PACKAGE_INVALID", problem=f"{FACTS}: a profile without an input")
    return found


def _shape(document: Mapping[str, Any]) -> Shape:
    least, usual, most = (tuple(map(int, document[name])) for name in ("least", "usual", "most"))
    return Shape(input=str(document["input"]), least=least, usual=usual, most=most)


def _usual(signature: Signature) -> tuple[Shape, ...]:
    found = []
    for tensor in signature.inputs:
        rows = USUAL_ROWS if tensor.shape[:1] == (-1,) else (max(tensor.shape[:1], default=1),) * 3
        rest = tuple(max(1, size) for size in tensor.shape[1:])
        least, usual, most = ((size, *rest) for size in rows)
        found.append(Shape(input=tensor.name, least=least, usual=usual, most=most))
    return tuple(found)
