"""EtcdKV keeps the contract, on a real etcd."""

import pytest

from chassis.etcd import EtcdKV
from tests.contracts.kv import KVContract


@pytest.mark.integration
class TestEtcdKV(KVContract):
    """On etcd."""

    @pytest.fixture
    def kv(self, etcd_kv: EtcdKV) -> EtcdKV:
        """A client of the shared etcd."""
        return etcd_kv
