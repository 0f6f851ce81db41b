"""The scheduler: the one ledger of pools, nodes, workloads and assignments, and the planner that places them.

It owns /lepton/scheduler/ in etcd and the sessions of the node agents. It does not know what a workload means to its
owner (a training run, a deployment), and runs nothing itself: agents do.
"""
