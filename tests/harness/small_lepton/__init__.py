"""A whole Lepton as clients see it, in this process: the generated servicers over in-memory state, on real TLS."""

from tests.harness.small_lepton.servers import SERVICERS, SmallLepton
from tests.harness.small_lepton.trainer import CHUNK
from tests.harness.small_lepton.world import PASSWORD

__all__ = ["CHUNK", "PASSWORD", "SERVICERS", "SmallLepton"]
