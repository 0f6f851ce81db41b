"""The rules, each a pure function from what is judged to how it does not keep them."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from math import isnan
from typing import Any, Final

from lepton.auth.v1.compliance_pb2 import (
    ComplianceRule,
    DeploymentRule,
    LicenseRule,
    PromotionRule,
    ResidencyRule,
    RetentionRule,
)
from lepton.compliance.licenses import allows
from lepton.compliance.subject import Act, ModelFacts, Subject

Labels = Mapping[str, str]
_USES: Final = frozenset({Act.JOB, Act.REGISTER, Act.PROMOTE, Act.DEPLOY, Act.PREDICT, Act.CONVERT, Act.RUN})


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What is known beside the subject."""

    data: Mapping[str, Labels] = field(default_factory=dict)  # artifact's name -> labels
    pools: Mapping[str, Labels] | None = None  # pool's name -> labels; None = not known yet
    now: datetime

    def labels(self, subject: Subject, digest: str) -> Labels:
        """The labels of an artifact of the subject's project."""
        return self.data.get(artifact_name(subject.project, digest), {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way in which a rule is not kept, and what is to be done."""

    problem: str
    fix: str
    digests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Something with labels that is used."""

    name: str
    value: str  # of the label that is asked about; empty = it has none
    is_model: bool
    digest: str = ""
    fix: str = ""


def faults(rule: ComplianceRule, subject: Subject, world: World) -> Iterator[Fault]:
    """How a subject does not keep a rule; nothing when it does, or when the rule is not about it."""
    kind = rule.WhichOneof("kind")
    if kind is not None:
        yield from RULES[kind](getattr(rule, kind), subject, world)


def needs_pools(rule: ComplianceRule, subject: Subject) -> bool:
    """Whether the rule cannot be decided without the labels of pools."""
    return rule.WhichOneof("kind") == "residency" and subject.pools is not None


def artifact_name(project: str, digest: str) -> str:
    """The name of a project's artifact."""
    return f"{project}/artifacts/{digest.removeprefix('sha256:')}"


def _residency(rule: ResidencyRule, subject: Subject, world: World) -> Iterator[Fault]:
    if subject.act not in _USES:
        return
    label = rule.label or "region"
    sources = list(_sources(subject, world, label))
    if subject.act is Act.RUN:
        own, fix = subject.labels.get(label, ""), f"give it the label {label} of what it uses, where it is created"
        sources.append(_Source(name=subject.resource, value=own, is_model=False, fix=fix))
    if rule.require_label:
        has_data = any(not each.is_model for each in sources)
        yield from _unlabelled((each for each in sources if not (each.is_model and has_data)), label)
    if subject.pools is None:
        return
    allowances = {each.region: frozenset(each.pool_regions) for each in rule.allowances}
    for source in sources:
        if source.value:
            allowed = allowances.get(source.value, frozenset({source.value}))
            yield from _misplaced(source, label, allowed, subject.pools, world.pools or {})


def _misplaced(
    source: _Source, label: str, allowed: Collection[str], wanted: Sequence[str], pools: Mapping[str, Labels]
) -> Iterator[Fault]:
    good = sorted(name for name, labels in pools.items() if labels.get(label, "") in allowed)
    fix = f"name pools with {label} {_or(sorted(allowed))}" + (f": {', '.join(good[:8])}" if good else "")
    digests = (source.digest,) if source.digest else ()
    if not wanted:
        problem = f"{source.name} is of {label} {source.value}, and no pools are named, so it could go to any"
        yield Fault(problem=problem, fix=fix, digests=digests)
    for pool in wanted:
        found = pools.get(pool, {}).get(label, "")
        if found not in allowed:
            where = f"of {label} {found}" if found else f"without a label {label}"
            problem = f"{source.name} is of {label} {source.value}, and {pool} is {where}"
            yield Fault(problem=problem, fix=fix, digests=digests)


def _license(rule: LicenseRule, subject: Subject, world: World) -> Iterator[Fault]:
    if subject.act not in _USES:
        return
    label, allowed = rule.label or "license", frozenset(rule.allowed)
    sources = [
        each
        for each in _sources(subject, world, label)
        if rule.kind == LicenseRule.KIND_UNSPECIFIED or each.is_model == (rule.kind == LicenseRule.MODELS)
    ]
    if rule.require_label:
        yield from _unlabelled(sources, label)
    for source in sources:
        if source.value and not allows(allowed, source.value):
            problem = f"{source.name} is under {source.value[:128]}, which is not allowed"
            some = ", ".join(sorted(allowed)[:16])
            yield Fault(problem=problem, fix=f"use what is under one of {some}", digests=_digests(source))


def _deployment(rule: DeploymentRule, subject: Subject, _world: World) -> Iterator[Fault]:
    if subject.act is not Act.DEPLOY:
        return
    deployment = subject.resource.rpartition("/")[2]
    if rule.deployments and not any(fnmatchcase(deployment, pattern) for pattern in rule.deployments):
        return
    yield from _not_a_member(rule.members, subject, "deploy there")
    for model in subject.models:
        if rule.stages and model.stage not in rule.stages:
            fix = f"promote it to {_or(rule.stages)} first: `lepton models stage`"
            yield Fault(problem=f"{model.name} is in stage {model.stage}, not {_or(rule.stages)}", fix=fix)
    if rule.require_gate and not subject.has_gate:
        yield Fault(problem=f"{deployment} changes over without a promotion gate", fix="give its strategy a gate")


def _promotion(rule: PromotionRule, subject: Subject, _world: World) -> Iterator[Fault]:
    if subject.act is not Act.PROMOTE or subject.to_stage not in (rule.stages or ["PRODUCTION"]):
        return
    yield from _not_a_member(rule.members, subject, f"promote to {subject.to_stage}")
    for model in subject.models:
        for gate in rule.gates:
            yield from _gate(gate, model)
        for tag in rule.tags:
            if not model.tags.get(tag):
                yield Fault(problem=f"{model.name} has no tag {tag}", fix=f"set the tag {tag}: `lepton models tag`")
        if rule.lineage and not model.data:
            problem = f"{model.name} does not say what data it was trained on"
            yield Fault(problem=problem, fix="register a package whose lineage names its dataset")
        if subject.exists:
            continue
        if rule.from_stage and model.stage not in (rule.from_stage, subject.to_stage):
            problem = f"{model.name} is in stage {model.stage}, not {rule.from_stage}"
            yield Fault(problem=problem, fix=f"move it to {rule.from_stage} first")
        if rule.four_eyes and model.creator in ("", subject.principal):
            problem = f"{model.name} was registered by {model.creator or 'somebody unknown'}"
            yield Fault(problem=problem, fix="have somebody else promote it")


def _gate(gate: PromotionRule.Gate, model: ModelFacts) -> Iterator[Fault]:
    value = model.metrics.get(gate.metric)
    wanted = _bounds(gate)
    # What is not a number has not shown anything.
    is_met = (
        value is not None
        and (not gate.HasField("min") or value >= gate.min)
        and (not gate.HasField("max") or value <= gate.max)
        and not isnan(value)
    )
    if not is_met:
        shown = "was not measured" if value is None else f"is {value:g}"
        problem = f"{gate.metric} of {model.name} {shown}, and must be {wanted}"
        yield Fault(problem=problem, fix="promote a version that has shown it")


def _bounds(gate: PromotionRule.Gate) -> str:
    parts = [f"at least {gate.min:g}"] if gate.HasField("min") else []
    parts += [f"at most {gate.max:g}"] if gate.HasField("max") else []
    return " and ".join(parts) or "measured"


def _retention(rule: RetentionRule, subject: Subject, world: World) -> Iterator[Fault]:
    if subject.created is None or subject.act not in _KEPT.get(rule.kind, ()):
        return
    age = world.now - subject.created
    is_deletion = subject.act is Act.DELETE_CHECKPOINT
    if is_deletion and rule.HasField("min_age") and age < rule.min_age.ToTimedelta():
        until = subject.created + rule.min_age.ToTimedelta()
        problem = f"{subject.resource} must be kept until {until:%Y-%m-%d %H:%M} UTC"
        yield Fault(problem=problem, fix="delete it after that", digests=subject.digests)
    if not is_deletion and rule.HasField("max_age") and age > rule.max_age.ToTimedelta():
        problem = f"{subject.resource} is {age.days} days old, {rule.max_age.ToTimedelta().days} are allowed"
        yield Fault(problem=problem, fix="delete it", digests=subject.digests)


_KEPT: Final[Mapping[Any, Collection[Act]]] = {
    RetentionRule.CHECKPOINTS: (Act.KEEP_CHECKPOINT, Act.DELETE_CHECKPOINT),
    RetentionRule.ARTIFACTS: (Act.KEEP_ARTIFACT,),
    RetentionRule.AUDIT_RECORDS: (),  # auth keeps the log by it
}

RULES: Final[Mapping[str, Callable[[Any, Subject, World], Iterable[Fault]]]] = {
    "residency": _residency,
    "retention": _retention,
    "license": _license,
    "deployment": _deployment,
    "promotion": _promotion,
}


def _sources(subject: Subject, world: World, label: str) -> Iterator[_Source]:
    """Everything with labels that the subject uses: each must keep the rule, none speaks for another."""
    data = dict.fromkeys((*subject.data, *(digest for model in subject.models for digest in model.data)))
    further = dict.fromkeys((*subject.ancestry, *(digest for model in subject.models for digest in model.ancestry)))
    for digest in data:
        value = world.labels(subject, digest).get(label, "")
        yield _Source(name=digest[:19], value=value, is_model=False, digest=digest)
    for digest in further:
        if digest not in data and (value := world.labels(subject, digest).get(label, "")):
            yield _Source(name=digest[:19], value=value, is_model=False, digest=digest)
    for model in subject.models:
        yield _Source(name=model.name, value=model.label(label), is_model=True)


def _unlabelled(sources: Iterable[_Source], label: str) -> Iterator[Fault]:
    for source in sources:
        if not source.value:
            command = "lepton models tag" if source.is_model else "lepton compliance label"
            fix = source.fix or f"label it: `{command}`"
            yield Fault(problem=f"{source.name} has no label {label}", fix=fix, digests=_digests(source))


def _digests(source: _Source) -> tuple[str, ...]:
    return (source.digest,) if source.digest else ()


def _not_a_member(members: Collection[str], subject: Subject, what: str) -> Iterator[Fault]:
    if members and not subject.exists and subject.principal not in members:
        yield Fault(problem=f"{subject.principal} may not {what}", fix="ask one of those whom the policy names")


def _or(words: Iterable[str]) -> str:
    return " or ".join(words)
