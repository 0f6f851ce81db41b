"""Authentication: who calls, by bearer token or by the certificate of a mesh peer."""

from typing import Any, Protocol

from chassis.call import Call, Principal
from chassis.method import Method
from chassis.middleware import Steps
from lepton.errors import Unauthenticated


class Verifier(Protocol):
    """Says whose token it is, or raises Unauthenticated."""

    def verify(self, token: str) -> Principal:
        """The principal of a valid token."""
        ...

    def member(self, spiffe_id: str, issued_at: float) -> Principal:
        """The principal of a mesh peer whose certificate was issued then; Unauthenticated when it is revoked."""
        ...


class Authentication:
    """Fills in the call's principal. A public method asks for none."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier

    def bind(self, method: Method) -> Steps:
        """Nothing for public methods; a certificate suffices where the rule names peers."""
        rule = method.rule
        if rule is None or rule.public:
            return Steps()
        verify, member = self._verifier.verify, self._verifier.member
        takes_peers = bool(rule.peers) or rule.authenticated

        def enter(call: Call, _request: Any) -> None:
            header = call.authorization
            if header:
                if header[:7].lower() != "bearer ":
                    raise Unauthenticated("TOKEN_INVALID")
                call.principal = verify(header[7:])
                return
            if takes_peers and call.peer:
                call.principal = member(call.peer, call.certified_at)
                return
            raise Unauthenticated("TOKEN_MISSING")

        return Steps(enter=enter)
