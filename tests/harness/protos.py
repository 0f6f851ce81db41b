"""Every service of Lepton's protos, as descriptors: for tests that must miss none."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from google.protobuf.descriptor import MethodDescriptor

import lepton


def every_method() -> Iterator[MethodDescriptor]:
    """The methods of all services in `sdk/lepton`, in the order of their files."""
    root = Path(lepton.__file__).parent
    for path in sorted(root.rglob("*_pb2.py")):
        name = ".".join(("lepton", *path.relative_to(root).with_suffix("").parts))
        for service in import_module(name).DESCRIPTOR.services_by_name.values():
            yield from service.methods
