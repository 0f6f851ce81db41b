"""Owns the configuration of the inference data plane: Envoy's files from the routes, and nothing of the process."""

from services.inference.envoy.admin import EnvoyAdmin
from services.inference.envoy.files import command, render, write
from services.inference.envoy.routes import Endpoint, Gateway, Route, Routes, TokenRules

__all__ = ["Endpoint", "EnvoyAdmin", "Gateway", "Route", "Routes", "TokenRules", "command", "render", "write"]
