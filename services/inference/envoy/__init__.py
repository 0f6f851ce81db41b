"""Owns the configuration of the inference data plane: Envoy's files from the routes, and nothing of the process."""

from services.inference.envoy.access import CallRules
from services.inference.envoy.admin import EnvoyAdmin
from services.inference.envoy.files import command, render, write
from services.inference.envoy.load import Load
from services.inference.envoy.routes import Endpoint, Gateway, Route, RouteLimits, Routes, Shadow, Target, TokenRules

__all__ = [
    "CallRules",
    "Endpoint",
    "EnvoyAdmin",
    "Gateway",
    "Load",
    "Route",
    "RouteLimits",
    "Routes",
    "Shadow",
    "Target",
    "TokenRules",
    "command",
    "render",
    "write",
]
