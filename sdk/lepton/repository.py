"""The repository manifest: the forms in which one model can be served, and which of them a node's Triton can run.

    {"format": "lepton.repository/1",
     "variants": [{"engine": "tensorrt", "key": "..", "requires": {"backend": "tensorrt", "device": ".."},
                   "files": {"config.pbtxt": "sha256:..", "1/model.plan": "sha256:.."}},
                  {"engine": "onnxruntime", "requires": {"backend": "python", "packages": {"onnxruntime": ""}},
                   "files": {"config.pbtxt": "sha256:..", "1/model.py": "sha256:..", "1/model.onnx": "sha256:.."}}]}

The inference service writes it, best variant first; the node takes the first that it can run, for only the node knows.
A manifest may also be a plain object of paths and digests: one variant that asks for nothing.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final, Self

from lepton.artifacts import parse_digest
from lepton.errors import FailedPrecondition, InvalidArgument

FORMAT: Final = "lepton.repository/1"
CONFIG: Final = "config.pbtxt"
CPU: Final = "cpu"
"""How the device classes of processors begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a node's Triton can run, for one server and the devices that it is given."""

    backends: Collection[str]
    """Names of the backends that are installed, such as `python` and `tensorrt`."""
    packages: Mapping[str, str] = field(default_factory=dict)
    """Versions of what the Python backend's own environment holds."""
    tensorrt: str = ""
    """TensorRT's version; empty = none."""
    device: str = ""
    """Pattern (`*` = anything) of the device classes that engines for this server's accelerators are built for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What a variant needs; whatever is empty may be anything."""

    backend: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    """Packages of the Python backend's environment; the version is a prefix (`2.13` fits 2.13.1), empty = any."""
    device: str = ""
    """The device class as the engine's key spells it."""
    tensorrt: str = ""
    """A plan runs only on the very version that built it."""

    def missing(self, offer: Offer) -> str:
        """What the node lacks, in words; empty when it can run this."""
        if self.backend and self.backend not in offer.backends:
            return f"Triton has no {self.backend} backend there"
        for package, version in self.packages.items():
            found = offer.packages.get(package)
            if found is None:
                return f"its Python environment has no {package}"
            if version and not f"{found}.".startswith(f"{version}."):
                return f"its Python environment has {package} {found}, not {version}"
        if self.device and not fnmatchcase(self.device, offer.device):
            return f"it was built for {self.device}, the server has {offer.device or 'none'}"
        if self.tensorrt and self.tensorrt != offer.tensorrt:
            return f"it was built by TensorRT {self.tensorrt}, the node has {offer.tensorrt or 'none'}"
        return ""

    def to_json(self) -> dict[str, Any]:
        """The requirements as a JSON object."""
        every = {"backend": self.backend, "device": self.device, "tensorrt": self.tensorrt}
        return {**{name: value for name, value in every.items() if value}, "packages": dict(self.packages)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The requirements that a JSON object describes."""
        return cls(
            backend=str(document.get("backend", "")),
            packages={str(name): str(version) for name, version in document.get("packages", {}).items()},
            device=str(document.get("device", "")),
            tensorrt=str(document.get("tensorrt", "")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One form of a model: its files by path below the model's own folder."""

    engine: str
    files: Mapping[str, str]
    """Digests of artifacts by path."""
    requires: Requirements = field(default_factory=Requirements)
    key: str = ""
    """The engine's key; empty for ONNX Runtime, which runs the model itself."""
    golden: str = ""
    """Digest of the golden requests that prove this form; empty = the model's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Every form of one model, best first."""

    variants: tuple[Variant, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The manifest that the bytes hold; InvalidArgument when they hold none."""
        try:
            document = json.loads(data)
            if "format" not in document:
                return cls(variants=(_variant({"engine": "", "files": document}),))
            if document["format"] != FORMAT:
                raise ValueError(f"its format is {document['format']!r}, not {FORMAT!r}")
            variants = tuple(map(_variant, document["variants"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _invalid(f"is not a repository manifest: {error}") from error
        if not variants:
            raise _invalid("names no variant")
        return cls(variants=variants)

    def render(self) -> bytes:
        """The manifest's bytes; equal manifests give equal bytes, hence equal digests."""
        variants = [
            {
                "engine": each.engine,
                "key": each.key,
                "requires": each.requires.to_json(),
                "files": dict(each.files),
                **({"golden": each.golden} if each.golden else {}),
            }
            for each in self.variants
        ]
        return json.dumps({"format": FORMAT, "variants": variants}, sort_keys=True, separators=(",", ":")).encode()

    def choose(self, offer: Offer) -> Variant:
        """The best variant that a node can run. Raises FailedPrecondition (NO_ENGINE_FOR_NODE)."""
        why = []
        for variant in self.variants:
            lack = variant.requires.missing(offer)
            if not lack:
                return variant
            why.append(f"{variant.engine}: {lack}")
        raise FailedPrecondition("NO_ENGINE_FOR_NODE", problem="; ".join(why))


def _variant(document: Mapping[str, Any]) -> Variant:
    files = {str(path): parse_digest(digest, f"repository.{path}") for path, digest in document["files"].items()}
    if CONFIG not in files:
        raise ValueError(f"a variant holds no {CONFIG}")
    return Variant(
        engine=str(document["engine"]),
        key=str(document.get("key", "")),
        golden=parse_digest(document["golden"], "repository.golden") if "golden" in document else "",
        requires=Requirements.from_json(document.get("requires", {})),
        files=files,
    )


def _invalid(problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={"repository": problem})
