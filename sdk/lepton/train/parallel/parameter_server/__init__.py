"""An asynchronous parameter server: servers hold the weights and step, workers push gradients and pull weights.

Stale synchronous parallel, after Ho et al., More Effective Distributed ML via a Stale Synchronous Parallel Parameter
Server (2013): a worker begins a step only while it is at most so many steps ahead of the slowest. There is no
collective: workers come and go. The weights are divided over the servers by name; each server has its own clock.
"""
