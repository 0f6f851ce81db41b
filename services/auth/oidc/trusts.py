"""Workload trusts: whose ID tokens sign in as a service account, so that CI systems and pods keep no key."""

import re
from typing import Final

from chassis.kv import Delete, Entry, mod, present
from lepton.auth.v1.federation_service_pb2 import CreateWorkloadTrustRequest, ListWorkloadTrustsRequest
from lepton.auth.v1.workload_trust_pb2 import WorkloadTrust
from lepton.errors import InvalidArgument
from lepton.names import ServiceAccountName, WorkloadTrustName
from services.auth import layout
from services.auth.audit import Deed
from services.auth.oidc.id_token import for_workload
from services.auth.oidc.providers import Providers, Verified
from services.auth.oidc.settings import OidcProvider
from services.auth.store import Store, resource_of

_AT_ONCE: Final = 100
_SUBJECT: Final = re.compile(r"[!-~]{1,255}", re.ASCII)


class WorkloadTrusts:
    """The trusts of service accounts."""

    def __init__(self, store: Store, providers: Providers) -> None:
        self._store = store
        self._providers = providers

    async def create(self, request: CreateWorkloadTrustRequest) -> WorkloadTrust:
        """Trust tokens of a configured provider. InvalidArgument where that would trust more than is meant."""
        account, wanted = ServiceAccountName.parse(request.parent, "parent"), request.workload_trust
        name = WorkloadTrustName(account.project, account.service_account, request.workload_trust_id)
        provider = self._providers.of_issuer(wanted.issuer)
        problem = (
            ("issuer", "no provider of auth's configuration has exactly this issuer and takes workloads")
            if provider is None or not provider.workload_audiences
            else _problem(wanted, provider)
        )
        if problem is not None:
            raise InvalidArgument("INVALID_FIELD", fields={f"workload_trust.{problem[0]}": problem[1]})
        trust = WorkloadTrust(
            display_name=wanted.display_name, issuer=wanted.issuer, subject=wanted.subject, audience=wanted.audience
        )

        async def check() -> None:
            await self._store.entry(account, layout.service_account(account))

        return await self._store.create(
            request,
            trust,
            name,
            layout.workload_trust(name),
            needs=[present(layout.service_account(account))],
            check=check,
        )

    async def page(self, request: ListWorkloadTrustsRequest) -> tuple[list[WorkloadTrust], str]:
        """The trusts of a service account."""
        account = ServiceAccountName.parse(request.parent, "parent")
        return await self._store.page(_folder(account), request, WorkloadTrust)

    async def delete(self, name: WorkloadTrustName) -> None:
        """Those tokens no longer sign in."""

        async def write() -> bool | None:
            entry = await self._store.entry(name, layout.workload_trust(name))
            done = await self._store.audit.commit(
                Deed(resource=str(name)), [mod(entry.key, entry.mod_revision)], [Delete(entry.key)]
            )
            return done.succeeded or None

        await self._store.retry(write)

    async def matching(self, account: ServiceAccountName, verified: Verified) -> Entry | None:
        """The trust by which a token signs in as the account; None when there is none."""
        after = ""
        while True:
            page = await self._store.kv.list(_folder(account), limit=_AT_ONCE, start_after=after)
            for each in page.entries:
                if _matches(resource_of(each, WorkloadTrust), verified):
                    return each
            if not page.more:
                return None
            after = page.entries[-1].key


def matches_subject(pattern: str, subject: str) -> bool:
    """Whether a subject is one of a pattern: `*` is a part without `:` and `/`, `**` at the end all that follows."""
    rest = pattern.endswith("**")
    pieces = map(re.escape, (pattern[:-2] if rest else pattern).split("*"))
    return re.fullmatch("[^:/]*".join(pieces) + (".*" if rest else ""), subject, re.ASCII) is not None


def _matches(trust: WorkloadTrust, verified: Verified) -> bool:
    """The provider's settings count as they are now: what they no longer allow, an old trust does not either."""
    return (
        trust.issuer == verified.provider.issuer
        and trust.audience in verified.provider.workload_audiences
        and for_workload(verified.claims, trust.audience)
        and _is_allowed(verified.subject, verified.provider)
        and matches_subject(trust.subject, verified.subject)
    )


def _problem(wanted: WorkloadTrust, provider: OidcProvider) -> tuple[str, str] | None:
    """The field that is wrong, and why."""
    if wanted.audience not in provider.workload_audiences:
        return "audience", f"must be one of the provider's workload audiences: {', '.join(provider.workload_audiences)}"
    if not _SUBJECT.fullmatch(wanted.subject):
        return "subject", "must be printable ASCII without blanks"
    if "**" in wanted.subject[:-2] or wanted.subject.endswith("***"):
        return "subject", "may hold ** at its end only; * stands for a part without : and /"
    literal = wanted.subject.partition("*")[0]
    if literal != wanted.subject and not re.search(r"[^:/]+[:/][^:/]+[:/]", literal):
        return "subject", "must name two whole parts before its first *, for example repo:acme/*: else strangers match"
    if not _is_allowed(literal, provider):
        return "subject", f"must begin with one of {', '.join(provider.workload_subjects)} (auth's configuration)"
    return None


def _is_allowed(subject: str, provider: OidcProvider) -> bool:
    return not provider.workload_subjects or subject.startswith(provider.workload_subjects)


def _folder(account: ServiceAccountName) -> str:
    return layout.workload_trusts(account.parent, account.service_account)
