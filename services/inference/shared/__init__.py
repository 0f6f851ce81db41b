"""Shared model servers: several deployments' models on one server, loaded when they are called, unloaded to make room.

Owns which server has which model. Not the servers' processes, which are the agents', nor the deployments, whose models
look to everybody else as if each had a workload of its own.
"""
