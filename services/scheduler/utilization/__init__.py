"""How the fleet is used over time: sampled from the ledger and the heartbeats, kept in memory, answered with its trend.

It keeps what was, and says what is short now. What will be is a forecaster's to say, who reads the same series.
"""

from services.scheduler.utilization.utilization import Utilization

__all__ = ["Utilization"]
