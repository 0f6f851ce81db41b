"""`lepton auth`."""

from typing import Annotated

import typer

from lepton.auth.v1.access_service_pb2 import ExplainPermissionResponse
from lepton.auth.v1.identity_service_pb2 import Authorities
from lepton.auth.v1.session_service_pb2 import SigningKeys
from lepton.cli import exits
from lepton.cli.columns import AUTHORITIES, SIGNING_KEYS
from lepton.cli.command import command
from lepton.cli.condition_options import AskedOptions
from lepton.cli.output import Form, as_dict
from lepton.cli.shell import Shell
from lepton.client import AsyncClient

app = typer.Typer(name="auth", help="Ask what is permitted and why; end access before its time.", no_args_is_help=True)

_Permission = Annotated[str, typer.Argument(help="The permission, for example jobs.create.")]
_Resource = Annotated[str, typer.Argument(help="The resource's whole name. Default: the project.")]
_Organisation = Annotated[bool, typer.Option("--organisation", help="Ask about the whole organisation.")]


@command(app, "can-i")
async def can_i(
    shell: Shell,
    permission: _Permission,
    request: AskedOptions,
    resource: _Resource = "",
    organisation: _Organisation = False,
) -> int | None:
    """Say yes or no, and exit with 0 or 1. Grants may hang on pools, priority and hours: say which with the options.

    lepton auth can-i jobs.create --pool gpu --priority 5 && lepton train ..
    """
    async with shell.client() as client:
        asked = _asked(client, resource, organisation=organisation)
        is_allowed = await client.access.can(permission, asked, attributes=request.attributes())
    shell.printer.text("yes" if is_allowed else "no")
    return None if is_allowed else exits.FAILED


@command(app, "why")
async def why(
    shell: Shell,
    permission: _Permission,
    request: AskedOptions,
    resource: _Resource = "",
    organisation: _Organisation = False,
    principal: Annotated[str, typer.Option(help="Whom it is about: users/NAME or a service account.")] = "",
) -> int | None:
    """Show which binding gives a permission, or what is missing.

    lepton auth why jobs.create projects/acme --principal users/alice
    """
    async with shell.client() as client:
        asked = _asked(client, resource, organisation=organisation)
        told = await client.access.explain(permission, asked, principal=principal, attributes=request.attributes())
    if not shell.printer.is_for_people:
        shell.printer.document(as_dict(told))
        return None
    for line in _lines(told, permission, asked or "the organisation"):
        shell.printer.text(line)
    return None


@command(app, "revoke")
async def revoke(
    shell: Shell,
    principal: Annotated[str, typer.Argument(help="users/NAME or a service account: all their tokens.")] = "",
    session: Annotated[str, typer.Option(help="A session's tokens, by its `sid`.")] = "",
    token_id: Annotated[str, typer.Option(help="One token, by its `jti`.")] = "",
) -> int | None:
    """Refuse access tokens from now on, everywhere; name one thing."""
    if sum(map(bool, (principal, session, token_id))) != 1:
        raise typer.BadParameter("name a principal, or --session, or --token-id")
    async with shell.client() as client:
        revision = await client.access.revoke(principal=principal, session=session, token_id=token_id)
    shell.note(f"revoked {principal or session or token_id}; policy revision {revision}")
    return None


@command(app, "keys")
async def keys(shell: Shell) -> int | None:
    """List the keys that sign access tokens."""
    async with shell.client() as client:
        _show(shell, await client.access.signing_keys())
    return None


@command(app, "rotate-key")
async def rotate_key(
    shell: Shell,
    distrust_former: Annotated[
        bool, typer.Option("--distrust-former", help="A key leaked: refuse every token of now.")
    ] = False,
) -> int | None:
    """Make a new key to sign access tokens with; it signs when every service knows it, and no call fails."""
    async with shell.client() as client:
        _show(shell, await client.access.rotate_signing_key(distrust_former=distrust_former))
    return None


@command(app, "authorities")
async def authorities(shell: Shell) -> int | None:
    """List the root authorities of the mesh: which one signs certificates, and which are trusted for how long."""
    async with shell.client() as client:
        _show_authorities(shell, await client.access.authorities())
    return None


@command(app, "rotate-authority")
async def rotate_authority(
    shell: Shell,
    overlap_h: Annotated[
        float, typer.Option(min=0, help="Hours before it signs, and before the former is forgotten after that. 0 = 2.")
    ] = 0,
) -> int | None:
    """Replace the mesh's root authority; nothing restarts, and no call fails.

    Members trust the new one when they next renew, within an hour, and it signs after the overlap. Auth's ca.pem holds
    both from the start: hand it out to people anew within the overlap; `--overlap-h 168` gives a week for that.

    lepton auth rotate-authority --overlap-h 168
    """
    async with shell.client() as client:
        _show_authorities(shell, await client.access.rotate_authority(overlap_s=round(overlap_h * 3600)))
    return None


def _show_authorities(shell: Shell, told: Authorities) -> None:
    if shell.wishes.output is not Form.NAME:
        shell.printer.many(told.authorities, AUTHORITIES)
        return
    for each in told.authorities:
        shell.printer.text(each.fingerprint)


def _show(shell: Shell, listed: SigningKeys) -> None:
    if shell.wishes.output is not Form.NAME:
        shell.printer.many(listed.keys, SIGNING_KEYS)
        return
    for each in listed.keys:
        shell.printer.text(each.kid)


def _asked(client: AsyncClient, resource: str, *, organisation: bool) -> str:
    return "" if organisation else resource or (f"projects/{client.project}" if client.project else "")


def _lines(told: ExplainPermissionResponse, permission: str, where: str) -> list[str]:
    verdict = "permitted" if told.allowed else "not permitted"
    lines = [f"{permission} on {where}: {verdict} (policy revision {told.policy_revision})"]
    lines += [f"  given by {_grant(each)}, which has {each.pattern}" for each in told.grants]
    lines += [f"  withheld by {_grant(each)}: {each.unmet}" for each in told.withheld]
    lines += [f"  not given by {_grant(each)}" for each in told.lacking]
    if told.limited_by:
        lines.append(f"  taken away: {told.limited_by}")
    if not told.known:
        lines.append("  no method asks for this permission: is it spelled right?")
    if not told.allowed and not told.grants and not told.withheld and told.granting_roles:
        lines.append(f"  missing: one of the roles {', '.join(told.granting_roles)} on {' or '.join(told.scopes)}")
    if told.hidden:
        lines.append("  the principal has no role there: to them it looks as if it did not exist")
    return lines


def _grant(grant: ExplainPermissionResponse.Grant) -> str:
    scope = "the organisation" if grant.scope == "*" else grant.scope
    named = f"{grant.role} on {scope}" + (f" ({grant.role_binding})" if grant.role_binding else "")
    return f"{named}, only {grant.condition}" if grant.condition else named
