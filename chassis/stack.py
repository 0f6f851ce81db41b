"""Builds the middleware of a server, in the one order that there is."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from chassis import kv
from chassis.access import PolicyReplica
from chassis.audit.auditor import Auditor
from chassis.middleware import ORDER, Middleware
from chassis.middleware.access_log import AccessLog, Which
from chassis.middleware.audit import Audit
from chassis.middleware.authentication import Authentication
from chassis.middleware.authorisation import Authorisation
from chassis.middleware.deadline import Deadline
from chassis.middleware.errors import Errors, Translation
from chassis.middleware.rate_limit import RateLimit, RateLimits
from chassis.middleware.tracing import Tracing
from chassis.middleware.validation import Validation
from chassis.principal_rates import PrincipalRates
from chassis.rates import Rate
from chassis.rpc_metrics import RpcMetrics
from lepton.errors import Unavailable

# What the layers below services raise and callers should hear as something else than a bug.
TRANSLATIONS: Final[Mapping[type[BaseException], Translation]] = {
    kv.Unavailable: lambda _: Unavailable("STORE_UNAVAILABLE", retry_after_s=1.0),
    kv.OutcomeUnknown: lambda _: Unavailable("OUTCOME_UNKNOWN", retry_after_s=1.0),
}


def stack(
    access: PolicyReplica,
    metrics: RpcMetrics,
    *,
    access_log: Which = "changes",
    rate_per_s: float = 500.0,
    burst: float = 1000.0,
    limits: RateLimits | None = None,
    auditor: Auditor | None = None,
    translations: Mapping[type[BaseException], Translation] = TRANSLATIONS,
) -> Sequence[Middleware]:
    """All middleware, outermost first. `rate_per_s` and `burst` are one caller's, where `limits` is not given."""
    limits = limits or RateLimits(caller=Rate(per_s=rate_per_s, burst=burst))
    makers: dict[str, Callable[[], Any]] = {
        "tracing": Tracing,
        "access_log": lambda: AccessLog(metrics, access_log),
        "audit": lambda: Audit(auditor),
        "errors": lambda: Errors(translations),
        "deadline": Deadline,
        "authentication": lambda: Authentication(access),
        "authorisation": lambda: Authorisation(access),
        "rate_limit": lambda: RateLimit(limits, own=PrincipalRates(lambda name: access.limits.of(name))),
        "validation": Validation,
    }
    return [makers[name]() for name in ORDER]
