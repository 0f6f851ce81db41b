"""A real OpenID provider, as a process over TLS: Authlib's grants decide about codes, PKCE and devices.

    python -m tests.harness.oidc_provider --folder F        # reads F/cert.pem and F/key.pem, writes F/port

Its users are whoever says who they are: `GET /authorize?...&login=alice`. `POST /claims` sets what is said of a user,
`POST /rotate` makes another key, `POST /approve` lets a device in, `POST /mint` signs any claims at all.
"""

import argparse
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import AuthorizationCodeMixin, ClientMixin
from authlib.oauth2.rfc6749.errors import OAuth2Error
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc8628 import DeviceAuthorizationEndpoint, DeviceCodeGrant, DeviceCredentialMixin
from authlib.oidc.core.grants import OpenIDCode
from flask import Flask, Response, jsonify, redirect, request
from joserfc import jwt
from joserfc.jwk import RSAKey
from werkzeug.serving import make_server

CLIENT = "lepton-cli"


class PublicClient(ClientMixin):
    """An installed application: no secret, any port of the loopback, PKCE."""

    def get_client_id(self) -> str:
        return CLIENT

    def get_default_redirect_uri(self) -> str:
        return ""

    def get_allowed_scope(self, scope: str) -> str:
        return scope or ""

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri.startswith("http://127.0.0.1:")

    def check_client_secret(self, client_secret: str) -> bool:
        return False

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == "none"

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in ("authorization_code", "urn:ietf:params:oauth:grant-type:device_code")


@dataclass
class Code(AuthorizationCodeMixin):
    """An authorisation code that was given."""

    user: str
    data: dict[str, str]

    def get_redirect_uri(self) -> str:
        return self.data.get("redirect_uri", "")

    def get_scope(self) -> str:
        return self.data.get("scope", "")

    def get_nonce(self) -> str | None:
        return self.data.get("nonce")

    def get_auth_time(self) -> int:
        return int(time.time())

    def get_acr(self) -> None:
        return None

    def get_amr(self) -> None:
        return None

    @property
    def code_challenge(self) -> str | None:
        return self.data.get("code_challenge")

    @property
    def code_challenge_method(self) -> str | None:
        return self.data.get("code_challenge_method")


@dataclass
class Device(DeviceCredentialMixin):
    """A device that waits."""

    data: dict[str, Any]
    polls: int = 0

    def get_client_id(self) -> str:
        return CLIENT

    def get_scope(self) -> str:
        return str(self.data.get("scope", "openid"))

    def get_user_code(self) -> str:
        return str(self.data["user_code"])

    def is_expired(self) -> bool:
        return False


@dataclass
class State:
    """Everything that the provider knows."""

    issuer: str = ""
    keys: list[RSAKey] = field(default_factory=list)
    codes: dict[str, Code] = field(default_factory=dict)
    devices: dict[str, Device] = field(default_factory=dict)
    approved: dict[str, tuple[str, bool]] = field(default_factory=dict)
    claims: dict[str, dict[str, Any]] = field(default_factory=dict)
    fetched: int = 0

    def rotate(self) -> None:
        self.keys = [RSAKey.generate_key(2048, {"kid": uuid4().hex, "use": "sig", "alg": "RS256"}), *self.keys[:1]]

    def sign(self, claims: dict[str, Any]) -> str:
        now = int(time.time())
        full = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 600, **claims}
        return jwt.encode({"alg": "RS256", "kid": self.keys[0].kid}, full, self.keys[0], algorithms=["RS256"])


def application(state: State) -> Flask:
    """The provider's pages."""
    app = Flask(__name__)
    server = AuthorizationServer(
        app, query_client=lambda name: PublicClient() if name == CLIENT else None, save_token=lambda *_: None
    )

    class CodeGrant(AuthorizationCodeGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = ("none",)

        def save_authorization_code(self, code: str, request: Any) -> None:
            state.codes[code] = Code(request.user, dict(request.payload.data))

        def query_authorization_code(self, code: str, client: Any) -> Code | None:
            return state.codes.get(code)

        def delete_authorization_code(self, authorization_code: Code) -> None:
            state.codes = {text: each for text, each in state.codes.items() if each is not authorization_code}

        def authenticate_user(self, authorization_code: Code) -> str:
            return authorization_code.user

    class IdToken(OpenIDCode):
        def exists_nonce(self, nonce: str, request: Any) -> bool:
            return False

        def resolve_client_private_key(self, client: Any) -> RSAKey:
            return state.keys[0]

        def get_client_algorithm(self, client: Any) -> str:
            return "RS256"

        def get_encode_header(self, client: Any) -> dict[str, str]:
            return {"alg": "RS256", "kid": str(state.keys[0].kid)}

        def get_client_claims(self, client: Any) -> dict[str, Any]:
            return {"iss": state.issuer, "aud": [CLIENT]}

        def generate_user_info(self, user: str, scope: str) -> dict[str, Any]:
            return {"sub": f"sub-{user}", **state.claims.get(user, {})}

    class DeviceGrant(DeviceCodeGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = ("none",)

        def query_device_credential(self, device_code: str) -> Device | None:
            return state.devices.get(device_code)

        def query_user_grant(self, user_code: str) -> tuple[str, bool] | None:
            return state.approved.get(user_code)

        def should_slow_down(self, credential: Device) -> bool:
            credential.polls += 1
            return credential.polls == 2

    class DeviceEndpoint(DeviceAuthorizationEndpoint):
        CLIENT_AUTH_METHODS = ("none",)

        def get_verification_uri(self) -> str:
            return f"{state.issuer}/device"

        def save_device_credential(self, client_id: str, scope: str, data: dict[str, Any]) -> None:
            state.devices[data["device_code"]] = Device({**data, "scope": scope})

    class DeviceIdToken(IdToken):
        pass

    server.register_grant(CodeGrant, [CodeChallenge(required=True), IdToken()])
    server.register_grant(DeviceGrant, [DeviceIdToken()])
    server.register_endpoint(DeviceEndpoint)

    @app.get("/.well-known/openid-configuration")
    def discovery() -> Response:
        return jsonify(
            issuer=state.issuer,
            jwks_uri=f"{state.issuer}/keys",
            authorization_endpoint=f"{state.issuer}/authorize",
            token_endpoint=f"{state.issuer}/token",
            device_authorization_endpoint=f"{state.issuer}/device_authorization",
        )

    @app.get("/keys")
    def keys() -> Response:
        state.fetched += 1
        return jsonify(keys=[key.as_dict(private=False) for key in state.keys])

    @app.get("/authorize")
    def authorize() -> Any:
        user = request.args.get("login", "")
        if user == "nobody":
            uri, flow = request.args["redirect_uri"], request.args["state"]
            return redirect(f"{uri}?error=access_denied&state={flow}")
        grant = server.get_consent_grant(end_user=user)
        return server.create_authorization_response(grant_user=user, grant=grant)

    @app.post("/token")
    def token() -> Any:
        return server.create_token_response()

    @app.post("/device_authorization")
    def device() -> Any:
        return server.create_endpoint_response(DeviceEndpoint.ENDPOINT_NAME)

    @app.post("/approve")
    def approve() -> str:
        wanted = request.get_json()
        for each in state.devices.values():
            state.approved[each.get_user_code()] = (wanted["user"], wanted.get("allowed", True))
        return ""

    @app.post("/claims")
    def claims() -> str:
        state.claims.update(request.get_json())
        return ""

    @app.post("/rotate")
    def rotate() -> str:
        state.rotate()
        return ""

    @app.post("/mint")
    def mint() -> str:
        return state.sign(request.get_json())

    @app.get("/fetched")
    def fetched() -> str:
        return str(state.fetched)

    @app.errorhandler(OAuth2Error)
    def failed(error: OAuth2Error) -> Any:
        return jsonify(error=error.error, error_description=error.description), 400

    return app


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    folder = parser.parse_args().folder
    state = State()
    state.rotate()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    server = make_server("127.0.0.1", 0, application(state), threaded=True, ssl_context=context)
    state.issuer = f"https://localhost:{server.server_port}"
    (folder / "port.new").write_text(str(server.server_port))
    (folder / "port.new").rename(folder / "port")
    server.serve_forever()


if __name__ == "__main__":
    main()
