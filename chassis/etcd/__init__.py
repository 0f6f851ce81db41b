"""The client of etcd v3: keys, transactions, leases and watches over grpc.aio, behind chassis.kv."""

from chassis.etcd.client import EtcdKV
from chassis.etcd.tls import TLS

__all__ = ["TLS", "EtcdKV"]
