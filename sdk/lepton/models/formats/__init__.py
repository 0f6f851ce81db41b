"""The files that a model package may hold, known by their bytes; nothing here unpickles, imports or runs what it reads.

`sniff` says what bytes are and refuses pickles; `safetensors_header`, `onnx_scan` and `pt2_archive` check one format
each, with bounded work and memory, in plain Python: they are what stands between an upload and the C++ libraries.
"""

from lepton.models.formats.limits import LIMITS, Limits
from lepton.models.formats.onnx_scan import OnnxScan, scan_onnx
from lepton.models.formats.pt2_archive import check_pt2, without_pickles
from lepton.models.formats.safetensors_header import TensorHeader, read_header
from lepton.models.formats.sniff import Kind, kind_of, refuse_pickle

__all__ = [
    "LIMITS", "Kind", "Limits", "OnnxScan", "TensorHeader", "check_pt2", "kind_of", "read_header", "refuse_pickle",
    "scan_onnx", "without_pickles",
]  # fmt: skip
