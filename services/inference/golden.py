"""Owns golden inference as the inference service uses it; the check itself is the SDK's, shared with the node agent."""

import grpc

from lepton.golden import Golden, Outcome, Verdict, check

__all__ = ["Golden", "Outcome", "Verdict", "check", "prove"]


async def prove(endpoint: str, model: str, golden: Golden, *, deadline_s: float) -> Verdict:
    """Checks one replica by its own address, past the gateway."""
    async with grpc.aio.insecure_channel(endpoint) as channel:
        return await check(channel, model, golden, deadline_s=deadline_s)
