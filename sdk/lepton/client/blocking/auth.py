"""What the auth service answers, blocking."""

from lepton.client.access import Access
from lepton.client.api_keys import ApiKeys
from lepton.client.audit import Audit
from lepton.client.compliance import Compliance
from lepton.client.encryption import Encryption
from lepton.client.federation import Federation
from lepton.client.join_tokens import JoinTokens
from lepton.client.limits import Limits
from lepton.client.loop_thread import Facade, iterates, lists, waits
from lepton.client.projects import Projects
from lepton.client.role_bindings import RoleBindings
from lepton.client.secrets import Secrets
from lepton.client.service_accounts import ServiceAccounts
from lepton.client.users import Users


class BlockingProjects(Facade[Projects]):
    """`client.projects` that blocks."""

    create = waits(Projects.create)
    get = waits(Projects.get)
    list = lists(Projects.list)
    delete = waits(Projects.delete)


class BlockingEncryption(Facade[Encryption]):
    """`client.encryption` that blocks."""

    get = waits(Encryption.get)
    rotate = waits(Encryption.rotate)
    shred = waits(Encryption.shred)


class BlockingUsers(Facade[Users]):
    """`client.users` that blocks."""

    create = waits(Users.create)
    get = waits(Users.get)
    list = lists(Users.list)
    set_password = waits(Users.set_password)
    set_disabled = waits(Users.set_disabled)


class BlockingServiceAccounts(Facade[ServiceAccounts]):
    """`client.service_accounts` that blocks."""

    create = waits(ServiceAccounts.create)
    get = waits(ServiceAccounts.get)
    list = lists(ServiceAccounts.list)


class BlockingApiKeys(Facade[ApiKeys]):
    """`client.api_keys` that blocks."""

    create = waits(ApiKeys.create)
    list = lists(ApiKeys.list)
    delete = waits(ApiKeys.delete)


class BlockingSecrets(Facade[Secrets]):
    """`client.secrets` that blocks."""

    create = waits(Secrets.create)
    add_version = waits(Secrets.add_version)
    get = waits(Secrets.get)
    list = lists(Secrets.list)
    check = waits(Secrets.check)
    set_enabled = waits(Secrets.set_enabled)
    destroy_version = waits(Secrets.destroy_version)
    delete = waits(Secrets.delete)


class BlockingAccess(Facade[Access]):
    """`client.access` that blocks."""

    can = waits(Access.can)
    explain = waits(Access.explain)
    permissions = waits(Access.permissions)
    roles = waits(Access.roles)
    role = waits(Access.role)
    create_role = waits(Access.create_role)
    update_role = waits(Access.update_role)
    preview_update_role = waits(Access.preview_update_role)
    delete_role = waits(Access.delete_role)
    revoke = waits(Access.revoke)
    signing_keys = waits(Access.signing_keys)
    rotate_signing_key = waits(Access.rotate_signing_key)
    authorities = waits(Access.authorities)
    rotate_authority = waits(Access.rotate_authority)


class BlockingRoleBindings(Facade[RoleBindings]):
    """`client.role_bindings` that blocks."""

    create = waits(RoleBindings.create)
    preview = waits(RoleBindings.preview)
    preview_delete = waits(RoleBindings.preview_delete)
    list = lists(RoleBindings.list)
    delete = waits(RoleBindings.delete)
    permissions = waits(RoleBindings.permissions)


class BlockingLimits(Facade[Limits]):
    """`client.limits` that blocks."""

    create = waits(Limits.create)
    get = waits(Limits.get)
    list = lists(Limits.list)
    update = waits(Limits.update)
    delete = waits(Limits.delete)


class BlockingJoinTokens(Facade[JoinTokens]):
    """`client.join_tokens` that blocks."""

    create = waits(JoinTokens.create)


class BlockingAudit(Facade[Audit]):
    """`client.audit` that blocks."""

    query = lists(Audit.query)
    tail = iterates(Audit.tail)
    verify = waits(Audit.verify)
    export = iterates(Audit.export)


class BlockingCompliance(Facade[Compliance]):
    """`client.compliance` that blocks."""

    create_policy = waits(Compliance.create_policy)
    policy = waits(Compliance.policy)
    policies = waits(Compliance.policies)
    update_policy = waits(Compliance.update_policy)
    delete_policy = waits(Compliance.delete_policy)
    exempt = waits(Compliance.exempt)
    exemptions = waits(Compliance.exemptions)
    end_exemption = waits(Compliance.end_exemption)
    label = waits(Compliance.label)
    labels = lists(Compliance.labels)
    findings = waits(Compliance.findings)
    report = waits(Compliance.report)


class BlockingFederation(Facade[Federation]):
    """`client.federation` that blocks."""

    providers = waits(Federation.providers)
    link = waits(Federation.link)
    identities = lists(Federation.identities)
    unlink = waits(Federation.unlink)
    trust = waits(Federation.trust)
    trusts = lists(Federation.trusts)
    untrust = waits(Federation.untrust)
