"""Runs somebody else's client script as it is, against the gateway: `python launch.py SCRIPT [ARGUMENTS ...]`.

Three things are given to it from outside. The channels that it opens speak TLS with the certificate of LEPTON_CA; every
call carries the token of LEPTON_TOKEN; and the names of models that stand in its text become those of the deployments
(LEPTON_MODELS, a JSON object). Not one line of the script is another.
"""

import ast
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc


class Names(ast.NodeTransformer):
    """Replaces whole texts; no part of one."""

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if isinstance(node.value, str) and node.value in self._names:
            return ast.copy_location(ast.Constant(self._names[node.value]), node)
        return node


def secured(secure: Callable[..., Any]) -> Callable[..., Any]:
    """An `insecure_channel` that makes a secure one whose calls carry the token."""
    trusted = grpc.ssl_channel_credentials(Path(os.environ["LEPTON_CA"]).read_bytes())
    bearer = grpc.access_token_call_credentials(os.environ["LEPTON_TOKEN"])
    credentials = grpc.composite_channel_credentials(trusted, bearer)

    def channel(target: str, *given: Any, **settings: Any) -> Any:
        given = given[1:] if given and isinstance(given[0], grpc.ChannelCredentials) else given
        settings.pop("credentials", None)
        return secure(target, credentials, *given, **settings)

    return channel


def main() -> None:
    script, sys.argv = Path(sys.argv[1]), sys.argv[1:]
    grpc.insecure_channel = grpc.secure_channel = secured(grpc.secure_channel)
    grpc.aio.insecure_channel = grpc.aio.secure_channel = secured(grpc.aio.secure_channel)
    names = json.loads(os.environ.get("LEPTON_MODELS", "{}"))
    tree = ast.fix_missing_locations(Names(names).visit(ast.parse(script.read_text(), str(script))))
    sys.path[0] = str(script.parent)
    exec(compile(tree, str(script), "exec"), {"__name__": "__main__", "__file__": str(script)})


if __name__ == "__main__":
    main()
