"""The clients of Lepton: AsyncClient, and Client for programs without an event loop."""

from lepton.client.async_client import AsyncClient
from lepton.client.blocking import Client
from lepton.client.credentials import Credentials, CredentialStore, FileCredentials, MemoryCredentials
from lepton.client.listing import Listing
from lepton.client.watching import Change
from lepton.profile import Profile

__all__ = [
    "AsyncClient",
    "Change",
    "Client",
    "CredentialStore",
    "Credentials",
    "FileCredentials",
    "Listing",
    "MemoryCredentials",
    "Profile",
]
