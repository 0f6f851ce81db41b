"""Makes a model package of files from elsewhere: looked at, proved by running them, then registered.

    package = make(Source.of(Path("resnet50.onnx")), wishes, folder)     # a folder of files and what they say

Nothing that is imported is unpickled. Files are looked at in this process (lepton.models.formats); the libraries that
parse and run them do so in a process of its own, with bounds on memory and time (proving.py).
"""

from lepton.models.importing.make import Made, Wishes, make
from lepton.models.importing.source import Source

__all__ = ["Made", "Source", "Wishes", "make"]
