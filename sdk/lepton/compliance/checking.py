"""Whether a policy makes sense: found before it is in force, naming the field and what to write instead."""

from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any, Final

from lepton.auth.v1.compliance_pb2 import (
    CompliancePolicy,
    ComplianceRule,
    DeploymentRule,
    LicenseRule,
    PromotionRule,
    ResidencyRule,
    RetentionRule,
)
from lepton.compliance.licenses import canonical
from lepton.errors import InvalidArgument
from lepton.names import ProjectName, ServiceAccountName, UserName

STAGES: Final = ("NONE", "STAGING", "PRODUCTION", "ARCHIVED")


def checked(policy: CompliancePolicy, *, is_organisation: bool, field: str = "compliance_policy") -> CompliancePolicy:
    """All that is given of a policy, licences spelled as SPDX does. Raises InvalidArgument naming the field."""
    if policy.projects and not is_organisation:
        raise _bad(f"{field}.projects", "is for policies of the organisation; a project's own is for that project")
    for index, project in enumerate(policy.projects):
        ProjectName.parse(project, f"{field}.projects[{index}]")
    if policy.remedy == CompliancePolicy.QUARANTINE and policy.mode != CompliancePolicy.ENFORCE:
        raise _bad(f"{field}.remedy", "may be QUARANTINE only where the mode is ENFORCE")
    made = CompliancePolicy()
    made.CopyFrom(policy)
    for output in ("name", "uid", "create_time", "update_time", "etag"):
        made.ClearField(output)
    if made.mode == CompliancePolicy.MODE_UNSPECIFIED:
        made.mode = CompliancePolicy.DRY_RUN
    if made.remedy == CompliancePolicy.REMEDY_UNSPECIFIED:
        made.remedy = CompliancePolicy.REPORT
    seen: set[str] = set()
    if not made.rules:
        raise _bad(f"{field}.rules", "must hold at least one rule")
    for index, rule in enumerate(made.rules):
        at = f"{field}.rules[{index}]"
        if rule.id in seen:
            raise _bad(f"{at}.id", f"{rule.id} is there already; give each rule its own id")
        seen.add(rule.id)
        _check_rule(rule, at, is_organisation)
    return made


def _check_rule(rule: ComplianceRule, at: str, is_organisation: bool) -> None:
    kind = rule.WhichOneof("kind")
    if kind is None:
        raise _bad(at, f"must demand something: one of {', '.join(CHECKS)}")
    if kind == "retention" and rule.retention.kind == RetentionRule.AUDIT_RECORDS and not is_organisation:
        raise _bad(f"{at}.retention.kind", "AUDIT_RECORDS is for policies of the organisation: there is one log")
    CHECKS[kind](getattr(rule, kind), f"{at}.{kind}")


def _check_residency(rule: ResidencyRule, at: str) -> None:
    regions = [each.region for each in rule.allowances]
    if len(set(regions)) < len(regions):
        raise _bad(f"{at}.allowances", "name each region once")


def _check_retention(rule: RetentionRule, at: str) -> None:
    if not rule.HasField("max_age") and not rule.HasField("min_age"):
        raise _bad(at, "must have max_age or min_age")
    if rule.kind == RetentionRule.ARTIFACTS and rule.HasField("min_age"):
        raise _bad(f"{at}.min_age", "is not for ARTIFACTS: nobody can delete them")
    both = rule.HasField("max_age") and rule.HasField("min_age")
    if both and rule.max_age.ToTimedelta() < rule.min_age.ToTimedelta():
        raise _bad(f"{at}.max_age", "must not be less than min_age")


def _check_license(rule: LicenseRule, at: str) -> None:
    if not rule.allowed:
        raise _bad(f"{at}.allowed", "must name at least one licence")
    for index, given in enumerate(rule.allowed):
        try:
            spelled = canonical(given)
        except ValueError as error:
            raise _bad(f"{at}.allowed[{index}]", f"{given[:64]!r} is no SPDX licence: {error}") from None
        if {" OR ", " AND "} & {f" {word} " for word in spelled.split()}:
            raise _bad(f"{at}.allowed[{index}]", "must be one licence; list each of them")
        rule.allowed[index] = spelled


def _check_deployment(rule: DeploymentRule, at: str) -> None:
    if not (rule.members or rule.stages or rule.require_gate):
        raise _bad(at, "must demand something: members, stages or require_gate")
    _check_members(rule.members, at)
    _check_stages(rule.stages, f"{at}.stages")


def _check_promotion(rule: PromotionRule, at: str) -> None:
    if not (rule.gates or rule.tags or rule.from_stage or rule.members or rule.four_eyes or rule.lineage):
        raise _bad(at, "must demand something: gates, tags, from_stage, members, four_eyes or lineage")
    _check_members(rule.members, at)
    _check_stages(rule.stages, f"{at}.stages")
    _check_stages([rule.from_stage] if rule.from_stage else [], f"{at}.from_stage")
    for index, gate in enumerate(rule.gates):
        for bound in ("min", "max"):
            if gate.HasField(bound) and not isfinite(getattr(gate, bound)):
                raise _bad(f"{at}.gates[{index}].{bound}", "must be a finite number")


CHECKS: Final[Mapping[str, Callable[[Any, str], None]]] = {
    "residency": _check_residency,
    "retention": _check_retention,
    "license": _check_license,
    "deployment": _check_deployment,
    "promotion": _check_promotion,
}


def _check_members(members: Iterable[str], at: str) -> None:
    for index, member in enumerate(members):
        kind = UserName if member.startswith("users/") else ServiceAccountName
        kind.parse(member, f"{at}.members[{index}]")


def _check_stages(stages: Iterable[str], field: str) -> None:
    for stage in stages:
        if stage not in STAGES:
            raise _bad(field, f"{stage[:64]!r} is no stage; write {', '.join(STAGES)}")


def _bad(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={field: problem})
