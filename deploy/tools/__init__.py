"""The programs that Lepton runs but did not write: where they are, and how `make setup` brings them."""

from deploy.tools.locate import ToolMissing, buf, envoy, etcd, etcdctl, triton
from deploy.tools.triton import Triton

__all__ = ["ToolMissing", "Triton", "buf", "envoy", "etcd", "etcdctl", "triton"]
