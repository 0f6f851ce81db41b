"""How often autoscaling looks, and what it takes for a day; a deployment's own wishes are in its `autoscaling`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscalingSettings:
    """`[autoscaling]` of the inference service."""

    every_s: float = 2.0
    """The leader decides so often, and at once when a deployment is called in its sleep."""
    publish_s: float = 1.0
    """Each gateway's load is published so often."""
    tell_s: float = 15.0
    """The reason for a number that has not changed is told so often at the most."""
    bucket_s: float = 60.0
    """The load is remembered by time of the day in steps of so long."""
    season_buckets: int = 1440
    """So many steps are a day."""
    forecast_lead_s: float = 300.0
    """Replicas are started so long before the load that is expected."""
    holder: str = "127.0.0.1:0"
    """Where calls are held while a deployment has no replica; loopback only."""
    held_bytes: int = 512 << 20
    """All deployments together may have so many bytes of requests held here."""
