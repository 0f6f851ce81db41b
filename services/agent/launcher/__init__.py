"""The warm launcher: a fork server with torch imported, from which a machine's ranks start in tenths of a second.

The agent holds a `LauncherClient`; only the launcher's own process (`python -m services.agent.launcher`) imports torch.
"""

from services.agent.launcher.client import LauncherClient
from services.agent.launcher.handles import Exit, RankHandle, StoreHandle
from services.agent.launcher.launch import RankLaunch

__all__ = ["Exit", "LauncherClient", "RankHandle", "RankLaunch", "StoreHandle"]
