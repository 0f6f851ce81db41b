"""Stubs of etcd's v3 API, generated from third_party/chassis/etcdpb; only chassis.etcd imports them."""
