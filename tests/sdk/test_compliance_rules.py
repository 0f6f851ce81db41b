"""Compliance rules: tables of what keeps each, a reference model on random worlds, wrong engines that it catches."""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lepton.auth.v1.compliance_pb2 import (
    ComplianceExemption,
    CompliancePolicy,
    ComplianceRule,
    DeploymentRule,
    LicenseRule,
    PromotionRule,
    ResidencyRule,
    RetentionRule,
)
from lepton.compliance import rulebook as rulebook_module
from lepton.compliance import rules as rules_module
from lepton.compliance.checking import CHECKS
from lepton.compliance.licenses import allows
from lepton.compliance.rulebook import Rulebook, covers
from lepton.compliance.rules import RULES, World, artifact_name, faults
from lepton.compliance.subject import Act, ModelFacts, Subject
from lepton.compliance.subjects import of_conversion, of_optimization, of_workload
from lepton.inference.v1.model_pb2 import Lineage, Model, ModelVersion
from lepton.inference.v1.optimization_pb2 import Optimization
from lepton.scheduler.v1.workload_pb2 import Workload

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
EU, US, PLAIN = ("sha256:" + letter * 64 for letter in "eup")
POOLS = {"pools/eu": {"region": "eu"}, "pools/eu2": {"region": "eu-2"}, "pools/us": {"region": "us"}, "pools/any": {}}
DATA = {
    artifact_name("projects/acme", EU): {"region": "eu", "license": "CC-BY-4.0"},
    artifact_name("projects/acme", US): {"region": "us", "license": "GPL-3.0-only"},
}
WORLD = World(data=DATA, pools=POOLS, now=NOW)


def job(*pools: str, data: tuple[str, ...] = (EU,), **given: Any) -> Subject:
    return Subject(act=Act.JOB, resource="projects/acme/jobs/j", principal="users/a", data=data, pools=pools, **given)


def model(**given: Any) -> ModelFacts:
    return ModelFacts(**{"name": "projects/acme/models/m/versions/1", **given})


def deploy(*pools: str, deployment: str = "prod-1", **given: Any) -> Subject:
    models = given.pop("models", (model(),))
    resource = f"projects/acme/deployments/{deployment}"
    return Subject(act=Act.DEPLOY, resource=resource, pools=pools, models=models, **{"principal": "users/a", **given})


def promote(stage: str = "PRODUCTION", **given: Any) -> Subject:
    principal = given.pop("principal", "users/a")
    return Subject(
        act=Act.PROMOTE,
        resource="projects/acme/models/m/versions/1",
        principal=principal,
        to_stage=stage,
        models=(model(**given),),
    )


def keeps(rule: Any, subject: Subject, world: World = WORLD) -> bool:
    kind = next(name for name in RULES if name in type(rule).__name__.lower())
    return not list(faults(ComplianceRule(id="r", **{kind: rule}), subject, world))


def test_every_kind_of_rule_is_checked_and_decided() -> None:
    kinds = {field.name for field in ComplianceRule.DESCRIPTOR.oneofs_by_name["kind"].fields}
    assert set(RULES) == set(CHECKS) == kinds


@pytest.mark.parametrize(
    ("rule", "subject", "kept"),
    [
        (ResidencyRule(), job("pools/eu"), True),
        (ResidencyRule(), job("pools/us"), False),
        (ResidencyRule(), job("pools/eu", "pools/us"), False),
        (ResidencyRule(), job("pools/any"), False),
        (ResidencyRule(), job("pools/absent"), False),
        (ResidencyRule(), job(), False),  # anywhere
        (ResidencyRule(), job(data=(PLAIN,)), True),
        (ResidencyRule(require_label=True), job("pools/eu", data=(PLAIN,)), False),
        (ResidencyRule(), job("pools/eu", data=(EU, US)), False),
        (ResidencyRule(), job("pools/us", data=(PLAIN,), ancestry=(EU,)), False),  # what it was trained on from
        (ResidencyRule(require_label=True), job("pools/eu", ancestry=(PLAIN,)), True),
        (ResidencyRule(allowances=[{"region": "eu", "pool_regions": ["eu", "eu-2"]}]), job("pools/eu2"), True),
        (ResidencyRule(allowances=[{"region": "us", "pool_regions": ["eu-2"]}]), job("pools/eu2"), False),
        (ResidencyRule(label="zone"), job("pools/us"), True),
        (ResidencyRule(), deploy("pools/us", models=(model(labels={"region": "eu"}),)), False),
        (ResidencyRule(), deploy("pools/eu", models=(model(labels={"region": "eu"}),)), True),
        (ResidencyRule(), deploy("pools/us", models=(model(data=(EU,)),)), False),
        (ResidencyRule(), deploy("pools/us", models=(model(ancestry=(EU,)),)), False),
        (ResidencyRule(), deploy("pools/us", models=(model(data=(EU,), labels={"region": "us"}),)), False),
        (ResidencyRule(require_label=True), deploy("pools/eu"), False),
        (ResidencyRule(require_label=True), deploy("pools/eu", models=(model(data=(EU,)),)), True),
        (ResidencyRule(), promote(data=(EU,)), True),  # runs nowhere
        (LicenseRule(allowed=["CC-BY-4.0"]), job(), True),
        (LicenseRule(allowed=["MIT"]), job(), False),
        (LicenseRule(allowed=["MIT"], kind=LicenseRule.MODELS), job(), True),
        (LicenseRule(allowed=["MIT"]), job(data=(PLAIN,)), True),
        (LicenseRule(allowed=["MIT"], require_label=True), job(data=(PLAIN,)), False),
        (LicenseRule(allowed=["MIT"]), promote(labels={"license": "MIT"}), True),
        (LicenseRule(allowed=["MIT"]), promote(labels={"license": "MIT"}, tags={"license": "X11"}), False),
        (LicenseRule(allowed=["MIT"], kind=LicenseRule.MODELS), promote(data=(US,), tags={"license": "MIT"}), True),
        (LicenseRule(allowed=["MIT"], kind=LicenseRule.MODELS, require_label=True), promote(), False),
        (DeploymentRule(members=["users/a"]), deploy(), True),
        (DeploymentRule(members=["users/b"]), deploy(), False),
        (DeploymentRule(members=["users/b"], deployments=["prod-*"]), deploy(), False),
        (DeploymentRule(members=["users/b"], deployments=["prod-*"]), deploy(deployment="try-1"), True),
        (DeploymentRule(members=["users/b"]), deploy(principal=""), True),  # nobody asks: it exists
        (DeploymentRule(stages=["PRODUCTION"]), deploy(), False),
        (DeploymentRule(stages=["PRODUCTION"]), deploy(models=(model(stage="PRODUCTION"),)), True),
        (DeploymentRule(stages=["PRODUCTION"]), deploy(models=(model(stage="PRODUCTION"), model())), False),
        (DeploymentRule(require_gate=True), deploy(), False),
        (DeploymentRule(require_gate=True), deploy(has_gate=True), True),
        (PromotionRule(gates=[{"metric": "acc", "min": 0.9}]), promote(metrics={"acc": 0.95}), True),
        (PromotionRule(gates=[{"metric": "acc", "min": 0.9}]), promote(metrics={"acc": 0.85}), False),
        (PromotionRule(gates=[{"metric": "acc", "min": 0.9}]), promote(metrics={"acc": float("nan")}), False),
        (PromotionRule(gates=[{"metric": "acc"}]), promote(), False),
        (PromotionRule(gates=[{"metric": "loss", "max": 0.0}]), promote(metrics={"loss": 0.1}), False),
        (PromotionRule(gates=[{"metric": "acc", "min": 0.9}]), promote("STAGING"), True),
        (PromotionRule(stages=["STAGING"], gates=[{"metric": "acc", "min": 0.9}]), promote("STAGING"), False),
        (PromotionRule(tags=["card"]), promote(tags={"card": "here"}), True),
        (PromotionRule(tags=["card"]), promote(tags={"card": ""}), False),
        (PromotionRule(from_stage="STAGING"), promote(), False),
        (PromotionRule(from_stage="STAGING"), promote(stage="PRODUCTION"), False),
        (PromotionRule(four_eyes=True), promote(creator="users/b"), True),
        (PromotionRule(four_eyes=True), promote(creator="users/a"), False),
        (PromotionRule(four_eyes=True), promote(), False),  # nobody knows who
        (PromotionRule(members=["users/b"]), promote(), False),
        (PromotionRule(lineage=True), promote(), False),
        (PromotionRule(lineage=True), promote(data=(EU,)), True),
    ],
)
def test_rules(rule: Any, subject: Subject, kept: bool) -> None:
    assert keeps(rule, subject) is kept


@pytest.mark.parametrize(
    ("days", "act", "kept"),
    [
        (1, Act.KEEP_CHECKPOINT, True),
        (91, Act.KEEP_CHECKPOINT, False),
        (1, Act.DELETE_CHECKPOINT, False),
        (8, Act.DELETE_CHECKPOINT, True),
        (91, Act.KEEP_ARTIFACT, True),  # the rule is of checkpoints
    ],
)
def test_retention(days: int, act: Act, kept: bool) -> None:
    rule = RetentionRule(kind=RetentionRule.CHECKPOINTS)
    rule.max_age.FromTimedelta(timedelta(days=90))
    rule.min_age.FromTimedelta(timedelta(days=7))
    subject = Subject(act=act, resource="projects/acme/jobs/j/checkpoints/1", created=NOW - timedelta(days=days))
    assert keeps(rule, subject) is kept


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("mit", True),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("(MIT OR GPL-2.0-only) AND Apache-2.0", True),
        ("GPL-2.0-only OR MIT AND X11", False),
        ("GPL-2.0-only OR MIT AND Apache-2.0", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
        ("", False),
        ("MIT OR", False),
        ("all rights reserved", False),
        ("MIT\nOR X11", True),
        ("(" * 250 + "MIT" + ")" * 250, False),
        ("MIT OR " * 100 + "MIT", False),  # longer than any licence
        ("__import__('os')", False),
    ],
)
def test_licence_expressions(expression: str, allowed: bool) -> None:
    assert allows(frozenset({"MIT", "Apache-2.0"}), expression) is allowed


def test_licences_against_truth_tables() -> None:
    """Random expressions of two operators and brackets, decided by Python's own `or` and `and`."""
    seed = int.from_bytes(os.urandom(4)) if os.environ.get("LEPTON_EXAMPLES") == "new" else 7
    print(f"seed {seed}")
    chance = random.Random(seed)
    ids = ["MIT", "X11", "ISC", "Zlib", "Apache-2.0"]
    for _ in range(2_000):
        allowed = frozenset(chance.sample(ids, 2))
        text = _expression(chance, ids, depth=4)
        python = text.replace("OR", "or").replace("AND", "and")
        for each in sorted(ids, key=len, reverse=True):
            python = python.replace(each, str(each in allowed))
        assert allows(allowed, text) is eval(python, {"__builtins__": {}}), text


def _expression(chance: random.Random, ids: list[str], depth: int) -> str:
    if depth == 0 or chance.random() < 0.3:
        return chance.choice(ids)
    left, right = (_expression(chance, ids, depth - 1) for _ in range(2))
    joined = f"{left} {chance.choice(['OR', 'AND'])} {right}"
    return f"({joined})" if chance.random() < 0.5 else joined


def ran(*pools: str, **labels: str) -> Subject:
    return of_workload(
        Workload(name="projects/acme/workloads/w", creator="users/a", pools=pools, labels=labels), "users/a"
    )


@pytest.mark.parametrize(
    ("subject", "strict", "kept"),
    [
        (ran("pools/eu", region="eu"), False, True),
        (ran("pools/us", region="eu"), False, False),
        (ran("pools/eu", "pools/us", region="eu"), False, False),
        (ran(region="eu"), False, False),
        (ran("pools/us"), False, True),
        (ran("pools/us"), True, False),  # nobody knows what it uses
        (ran("pools/us", region="us"), True, True),
    ],
)
def test_a_workload_of_no_service_goes_by_its_own_labels(subject: Subject, strict: bool, kept: bool) -> None:
    assert keeps(ResidencyRule(require_label=strict), subject) is kept
    assert keeps(LicenseRule(allowed=["MIT"], require_label=True), subject)  # which say nothing of licences


def test_a_workload_is_placed_by_what_its_programs_name() -> None:
    named = Workload(name="projects/acme/workloads/w", pools=["pools/us"])
    named.groups.add().program.torch.spec_json = f'{{"data": "{EU}"}}'
    (fault,) = faults(ComplianceRule(residency=ResidencyRule()), of_workload(named), WORLD)
    assert (fault.problem, fault.digests) == (f"{EU[:19]} is of region eu, and pools/us is of region us", (EU,))
    served = Workload(name="projects/acme/workloads/w", pools=["pools/us"])
    served.groups.add().program.triton.models.add(name="m", repository=EU, golden=PLAIN)
    assert not keeps(ResidencyRule(), of_workload(served))
    assert keeps(ResidencyRule(), of_workload(Workload(name=named.name, pools=["pools/us"])))


def test_what_a_version_was_trained_on_places_its_conversion() -> None:
    version = ModelVersion(name="projects/acme/models/m/versions/1", lineage=Lineage(dataset=EU))
    pairs = [(version, Model(name="projects/acme/models/m"))]
    for pools, kept in (((), False), (("pools/us",), False), (("pools/eu",), True)):
        assert keeps(ResidencyRule(), of_conversion("projects/acme/deployments/d", pairs, pools)) is kept
    search = Optimization(name="projects/acme/models/m/optimizations/o", dataset=EU, pools=["pools/us"])
    assert not keeps(ResidencyRule(), of_optimization(search, ModelVersion(), Model()))


# A reference model of residency and licences in the plainest words, and random worlds to compare with.


def allowed_by_the_model(policies: list[CompliancePolicy], exempt: list[ComplianceExemption], subject: Subject) -> bool:
    """Whether every enforced policy of the project's lets the subject pass, written without the engine."""
    for policy in policies:
        own = policy.name.startswith(f"{subject.project}/")
        if policy.mode != CompliancePolicy.ENFORCE or not (
            own or (policy.name.startswith("compliancePolicies/") and policy.projects in ([], [subject.project]))
        ):
            continue
        for rule in policy.rules:
            used: list[tuple[Any, tuple[str, ...]]]
            used = [(DATA.get(name, {}), (subject.resource, name)) for name in _artifacts(subject)]
            if subject.act is Act.RUN and rule.HasField("residency"):
                used.append((subject.labels, (subject.resource,)))  # a workload of nobody's says it itself
            for labels, names in used:
                is_exempt = any(
                    each.name.split("/exemptions/")[0] == policy.name
                    and rule.id in (each.rules or [rule.id])
                    and each.expire_time.seconds > NOW.timestamp()
                    and any(name == each.resource or name.startswith(each.resource + "/") for name in names)
                    for each in exempt
                )
                if not is_exempt and not _holds(rule, labels, subject.pools or ()):
                    return False
    return True


def _artifacts(subject: Subject) -> list[str]:
    return [artifact_name(subject.project, digest) for digest in subject.data]


def _holds(rule: ComplianceRule, labels: Any, pools: Any) -> bool:
    if rule.HasField("license"):
        licence = labels.get("license")
        return licence in rule.license.allowed if licence else not rule.license.require_label
    region = labels.get("region")
    if not region:
        return not rule.residency.require_label
    regions = {each.region: list(each.pool_regions) for each in rule.residency.allowances}.get(region, [region])
    return bool(pools) and all(POOLS.get(pool, {}).get("region") in regions for pool in pools)


def random_case(chance: random.Random) -> tuple[list[CompliancePolicy], list[ComplianceExemption], Subject]:
    policies = []
    for number in range(chance.randint(0, 3)):
        parent = chance.choice(["", "projects/acme/", "projects/acme-2/"])
        made = CompliancePolicy(
            name=f"{parent}compliancePolicies/p{number}",
            mode=chance.choice([CompliancePolicy.DRY_RUN, CompliancePolicy.WARN, *[CompliancePolicy.ENFORCE] * 3]),
            projects=[] if parent else chance.choice([[], [], ["projects/acme"], ["projects/other"]]),
        )
        for index in range(chance.randint(1, 2)):
            rule = made.rules.add(id=f"r{index}")
            if chance.random() < 0.5:
                rule.license.allowed.extend(chance.sample(["CC-BY-4.0", "GPL-3.0-only", "MIT"], 2))
                rule.license.require_label = chance.random() < 0.3
            else:
                rule.residency.require_label = chance.random() < 0.3
                if chance.random() < 0.5:
                    rule.residency.allowances.add(region="eu", pool_regions=["eu", "eu-2"])
        policies.append(made)
    names = ["projects/acme", "projects/acme/jobs/j", "projects/acme/jobs/j2", artifact_name("projects/acme", EU)]
    exempt = []
    for number in range(chance.randint(0, 2) if policies else 0):
        each = ComplianceExemption(
            name=f"{chance.choice(policies).name}/exemptions/e{number}",
            resource=chance.choice(names),
            rules=chance.choice([[], ["r0"], ["r1"]]),
        )
        each.expire_time.FromDatetime(NOW + timedelta(seconds=chance.choice([-60, 60])))
        exempt.append(each)
    data = tuple(chance.sample([EU, US, PLAIN], chance.randint(1, 2)))
    subject = job(*chance.sample(sorted(POOLS), chance.randint(0, 2)), data=data)
    subject = replace(subject, resource=f"projects/acme/jobs/{chance.choice(['j', 'j2'])}")
    act = chance.choice([Act.JOB, Act.CONVERT, Act.RUN])
    own = chance.choice([{}, {"region": "eu"}, {"region": "us", "license": "GPL-3.0-only"}]) if act is Act.RUN else {}
    return policies, exempt, replace(subject, act=act, labels=own)


def disagreements(count: int, seed: int) -> Iterator[Any]:
    chance = random.Random(seed)
    for _ in range(count):
        policies, exempt, subject = random_case(chance)
        found = Rulebook(policies=policies, exemptions=exempt, data=DATA).judge(subject, POOLS, NOW)
        if (not any(each.is_refused for each in found)) is not allowed_by_the_model(policies, exempt, subject):
            yield policies, exempt, subject


def test_the_engine_agrees_with_the_model() -> None:
    assert next(disagreements(3_000, seed=11), None) is None


@pytest.mark.slow
def test_the_engine_agrees_with_the_model_on_many() -> None:
    seed = int.from_bytes(os.urandom(4)) if os.environ.get("LEPTON_EXAMPLES") == "new" else 13
    print(f"seed {seed}")
    assert next(disagreements(100_000, seed=seed), None) is None


def _ignoring_labels(kind: str) -> Callable[..., Any]:
    original = RULES[kind]
    return lambda rule, subject, world: original(rule, subject, replace(world, data={}))


def _deaf_to_its_own_labels(rule: Any, subject: Subject, world: World) -> Any:
    return RULES["residency"](rule, replace(subject, labels={}), world)


def _conversions_go_anywhere(rule: Any, subject: Subject, world: World) -> Any:
    return () if subject.act is Act.CONVERT else RULES["residency"](rule, subject, world)


def _anywhere_is_fine(rule: Any, subject: Subject, world: World) -> Any:
    return RULES["residency"](rule, replace(subject, pools=subject.pools or None), world)


def _one_good_pool_is_enough(rule: Any, subject: Subject, world: World) -> Any:
    return () if any(_holds(ComplianceRule(residency=rule), DATA.get(artifact_name(subject.project, each), {}), (pool,))
                     for each in subject.data for pool in subject.pools or ()) else RULES["residency"](
        rule, subject, world)  # fmt: skip


@pytest.mark.parametrize(
    ("where", "what", "wrong"),
    [
        (rules_module, "RULES", {**RULES, "residency": _ignoring_labels("residency")}),
        (rules_module, "RULES", {**RULES, "license": _ignoring_labels("license")}),
        (rules_module, "RULES", {**RULES, "residency": _anywhere_is_fine}),
        (rules_module, "RULES", {**RULES, "residency": _one_good_pool_is_enough}),
        (rules_module, "RULES", {**RULES, "residency": _deaf_to_its_own_labels}),
        (rules_module, "RULES", {**RULES, "residency": _conversions_go_anywhere}),
        (rulebook_module, "concerns", lambda policy, project: True),
        (rulebook_module, "concerns", lambda policy, project: project in policy.name or not policy.projects),
        (rulebook_module, "covers", lambda resource, name: name.startswith(resource)),
        (rulebook_module, "covers", lambda resource, name: resource == name),
    ],
    ids=[
        "region blind",
        "licence blind",
        "anywhere",
        "one pool",
        "own labels",
        "conversions",
        "all concern",
        "prefix",
        "name prefix",
        "no inside",
    ],
)
def test_a_wrong_engine_is_caught(monkeypatch: pytest.MonkeyPatch, where: Any, what: str, wrong: Any) -> None:
    monkeypatch.setattr(where, what, wrong)
    assert next(disagreements(3_000, seed=11), None) is not None


def test_an_exemption_is_for_what_it_names_and_what_lies_in_it() -> None:
    assert covers("projects/acme/models/m", "projects/acme/models/m/versions/1")
    assert not covers("projects/acme/models/m", "projects/acme/models/m2")
    assert not covers("projects/acme/models/m/versions/1", "projects/acme/models/m")
