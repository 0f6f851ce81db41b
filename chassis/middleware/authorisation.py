"""Authorisation: the rule in the method's proto, decided locally; another project's resources look absent."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final, Protocol

from chassis.access import Decision
from chassis.call import POLICY_REVISION, Call, Principal
from chassis.conditions import NO_ATTRIBUTES, Attributes
from chassis.method import Method, Rule
from chassis.middleware import Enter, Steps
from chassis.request_attributes import attributes_reader
from lepton.errors import InvalidArgument, LeptonError, PermissionDenied, Unavailable

_ALLOWED: Final = Decision.ALLOWED  # to look a member up in its enum costs as much as to look at a dictionary


class Policy(Protocol):
    """Decides permissions, and watches over streams that were let in."""

    @property
    def revision(self) -> int:
        """The revision of the policy that decides now."""
        ...

    def allowed(
        self, principal: Principal, permission: str, resource: str, attributes: Attributes = NO_ATTRIBUTES
    ) -> Decision:
        """Whether the principal has the permission on the resource, for a request with these attributes."""
        ...

    def refusal(
        self, decision: Decision, principal: Principal, permission: str, resource: str, attributes: Attributes
    ) -> LeptonError:
        """The answer to a refused call."""
        ...

    def guard(self, call: Call, permission: str, resource: str, attributes: Attributes = NO_ATTRIBUTES) -> None:
        """Cut this stream when the decision that let it in no longer holds."""
        ...

    def release(self, call: Call) -> None:
        """The stream has ended."""
        ...


class Authorisation:
    """Refuses what the rule does not allow, and every method that has no rule."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def bind(self, method: Method) -> Steps:
        """Compiles the rule."""
        rule = method.rule
        if rule is None:
            return Steps(enter=_refuse)
        if rule.public:
            return Steps()
        if rule.permission:
            return self._permission(method, rule)
        return self._peers(method, rule) if rule.peers and not rule.authenticated else self._anyone(method)

    def _peers(self, method: Method, rule: Rule) -> Steps:
        """A stream is guarded too: a member's certificate may be revoked while it is open."""
        admit, guard = _peers_only(rule), self._policy.guard
        if not (method.streams_requests or method.streams_responses):
            return Steps(enter=admit)

        def enter(call: Call, request: Any) -> None:
            admit(call, request)
            guard(call, "", "")

        return Steps(enter=enter, leave=self._policy.release)

    def _anyone(self, method: Method) -> Steps:
        if not (method.streams_requests or method.streams_responses) or method.is_infrastructure:
            return Steps()
        return Steps(enter=lambda call, _: self._policy.guard(call, "", ""), leave=self._policy.release)

    def _permission(self, method: Method, rule: Rule) -> Steps:
        allowed, peers, permission = self._policy.allowed, rule.peers, rule.permission
        resource_of: Callable[[Any], str] | None = attrgetter(rule.resource) if rule.resource else None
        attributes_of = attributes_reader(rule, method.request_type)
        is_stream = method.streams_requests or method.streams_responses

        def decide(call: Call, request: Any) -> None:
            principal = call.principal
            if principal is None or principal.is_peer:
                if peers and call.peer_service in peers:
                    if is_stream:
                        self._policy.guard(call, "", "")
                    return
                raise PermissionDenied("PEER_DENIED", peer=call.peer)
            resource = resource_of(request) if resource_of is not None else ""
            if not resource and method.streams_requests and call.project is not None:
                return  # the stream's first message named the resource for all of them
            call.asked = resource
            if call.policy_revision:
                self._not_behind(call.policy_revision)
            attributes = NO_ATTRIBUTES if attributes_of is None else attributes_of(request)
            decision = allowed(principal, permission, resource, attributes)
            if decision is not _ALLOWED:
                raise self._policy.refusal(decision, principal, permission, resource, attributes)
            call.resource = resource
            if is_stream:
                self._policy.guard(call, permission, resource, attributes)

        leave = self._policy.release if is_stream else None
        if resource_of is None and method.streams_requests:
            return Steps(enter=decide, leave=leave)
        return Steps(receive=decide, leave=leave)

    def _not_behind(self, wanted: str) -> None:
        """A caller that saw the policy written is never answered by an older one: no new enemy."""
        if not wanted.isascii() or not wanted.isdigit() or len(wanted) > 19:
            raise InvalidArgument("INVALID_FIELD", fields={POLICY_REVISION: "must be a revision: digits"})
        if self._policy.revision < int(wanted):
            known = str(self._policy.revision)
            raise Unavailable("POLICY_BEHIND", retry_after_s=0.2, revision=known, wanted=wanted)


def _refuse(call: Call, _request: Any) -> None:
    raise PermissionDenied("METHOD_WITHOUT_RULE", method=call.method.path)


def _peers_only(rule: Rule) -> Enter:
    def enter(call: Call, _request: Any) -> None:
        if not call.peer:
            raise PermissionDenied("PEER_REQUIRED")
        if call.peer_service not in rule.peers:
            raise PermissionDenied("PEER_DENIED", peer=call.peer)

    return enter
