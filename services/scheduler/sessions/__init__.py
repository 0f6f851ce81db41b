"""The sessions of node agents at this replica: their keys in etcd, what they are told, and what they report."""
