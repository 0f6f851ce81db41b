"""Which columns the tables of each kind of resource have."""

from datetime import UTC
from typing import Final

from lepton.cli.autoscaling_options import asked
from lepton.cli.cells import (
    age,
    age_of,
    duration,
    field,
    last_part,
    membership_rule,
    metrics,
    moment,
    pairs,
    progress,
    resources,
    short_digest,
    slices,
    stage,
    state,
    taints,
)
from lepton.cli.condition_options import shown_condition
from lepton.cli.output import Column
from lepton.cli.quotas import shown_quota, shown_use

_NAME: Final = Column("NAME", last_part())
_FULL: Final = Column("RESOURCE", field("name"), is_wide=True)
_STATE: Final = Column("STATE", state)
_AGE: Final = Column("AGE", age)
_MESSAGE: Final = Column("MESSAGE", field("message"), is_wide=True)
PROJECTS: Final = (_NAME, Column("DISPLAY NAME", field("display_name")), _AGE)
PROJECT_KEYS: Final = (
    Column("KEY", field("key_id")),
    Column("SEALS", lambda each: each.Purpose.Name(each.purpose).lower()),
    Column("VERSION", field("version")),
    Column("WRAPPED BY", lambda each: "the current key" if each.is_current else "a former key, for now"),
    _AGE,
)
USERS: Final = (_NAME, Column("DISPLAY NAME", field("display_name")), Column("DISABLED", field("disabled")), _AGE)
SERVICE_ACCOUNTS: Final = (_NAME, Column("RESOURCE", field("name")), _AGE)
USER_IDENTITIES: Final = (
    Column("PROVIDER", field("provider")),
    Column("SUBJECT", field("subject")),
    Column("LAST SIGN-IN", lambda each: moment(each, "last_sign_in_time")),
    Column("ROLES GIVEN", lambda each: str(len(each.role_bindings))),
    Column("RESOURCE", field("name")),
)
WORKLOAD_TRUSTS: Final = (
    _NAME,
    Column("ISSUER", field("issuer")),
    Column("SUBJECT", field("subject")),
    Column("AUDIENCE", field("audience")),
    _AGE,
)
API_KEYS: Final = (
    _NAME,
    Column("ACCOUNT", lambda each: each.name.split("/")[3]),
    Column("PREFIX", field("prefix")),
    Column("EXPIRES", lambda each: each.expire_time.ToDatetime(tzinfo=UTC).strftime("%Y-%m-%d")),
    Column("PERMISSIONS", lambda each: ", ".join(each.permissions) or "all"),
    Column("ON", lambda each: each.resource or "-"),
    _FULL,
    _AGE,
)
SECRETS: Final = (
    _NAME,
    Column("VERSION", lambda each: str(each.current_version or "-")),
    Column("VERSIONS", lambda each: str(len(each.versions))),
    Column("DISABLED", field("disabled")),
    Column("LAST USE", lambda each: moment(each, "last_use_time")),
    _FULL,
    _AGE,
)
SECRET_VERSIONS: Final = (
    Column("VERSION", lambda each: str(each.version)),
    Column("STATE", state),
    Column("MADE", lambda each: moment(each, "create_time")),
    Column("LAST USE", lambda each: moment(each, "last_use_time")),
)
ROLES: Final = (
    _NAME,
    Column("BUILT IN", field("built_in")),
    Column("PERMISSIONS", lambda each: ", ".join(each.permissions)),
    _AGE,
)
AUTHORITIES: Final = (
    Column("AUTHORITY", lambda each: each.fingerprint[:16]),
    Column("STATE", state),
    Column("SIGNS FROM", lambda each: moment(each, "sign_time")),
    Column("TRUSTED UNTIL", lambda each: moment(each, "trust_end_time")),
    Column("FINGERPRINT", field("fingerprint"), is_wide=True),
    _AGE,
)
SIGNING_KEYS: Final = (Column("KEY", field("kid")), Column("SIGNS", field("signs")), _AGE)
ROLE_BINDINGS: Final = (
    _NAME,
    Column("ROLE", last_part("role")),
    Column("ON", lambda each: each.resource or "-", is_wide=True),
    Column("MEMBERS", lambda each: ", ".join(each.members)),
    Column("CONDITION", lambda each: shown_condition(each.condition) or "-"),
    _FULL,
    _AGE,
)
PRINCIPAL_LIMITS: Final = (
    _NAME,
    Column("REQUESTS/S", lambda each: f"{each.requests_per_s:g}" if each.HasField("requests_per_s") else "-"),
    Column("UNFINISHED", lambda each: str(each.max_unfinished) if each.HasField("max_unfinished") else "-"),
    Column("DEVICES", lambda each: f"{each.max_device_milli / 1000:g}" if each.HasField("max_device_milli") else "-"),
    Column("MEMBERS", lambda each: ", ".join(each.members)),
    _FULL,
    _AGE,
)
AUDIT: Final = (
    Column("SEQUENCE", field("sequence")),
    Column("TIME", lambda each: each.time.ToDatetime(tzinfo=UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]),
    Column("ACTOR", lambda each: each.actor or "-"),
    Column("ACTION", last_part("action")),
    Column("RESOURCE", lambda each: each.resource or "-"),
    Column("OUTCOME", lambda each: each.Outcome.Name(each.outcome)),
    Column("REASON", lambda each: each.reason or "-"),
    Column("COUNT", field("count"), is_wide=True),
    Column("SERVICE", field("service"), is_wide=True),
    Column("SOURCE", field("source"), is_wide=True),
    Column("POLICY", field("policy_revision"), is_wide=True),
    Column("TRACE", lambda each: each.trace_id or "-", is_wide=True),
)
AUDIT_FINDINGS: Final = (
    Column("FOUND", lambda each: each.Kind.Name(each.kind)),
    Column("FIRST", field("first")),
    Column("LAST", field("last")),
    Column("WHAT", field("message")),
)
COMPLIANCE_POLICIES: Final = (
    Column("NAME", field("name")),
    Column("MODE", lambda each: each.Mode.Name(each.mode)),
    Column("REMEDY", lambda each: each.Remedy.Name(each.remedy)),
    Column("RULES", lambda each: ", ".join(f"{rule.id} ({rule.WhichOneof('kind')})" for rule in each.rules)),
    Column("PROJECTS", lambda each: ", ".join(each.projects) or "all", is_wide=True),
    _AGE,
)
COMPLIANCE_EXEMPTIONS: Final = (
    Column("NAME", field("name")),
    Column("FOR", field("resource")),
    Column("RULES", lambda each: ", ".join(each.rules) or "all"),
    Column("UNTIL", lambda each: each.expire_time.ToDatetime(tzinfo=UTC).strftime("%Y-%m-%d %H:%M")),
    Column("REASON", field("reason")),
    Column("BY", field("creator"), is_wide=True),
)
COMPLIANCE_FINDINGS: Final = (
    Column("RESOURCE", field("resource")),
    Column("POLICY", last_part("policy")),
    Column("RULE", field("rule")),
    Column("MODE", lambda each: each.DESCRIPTOR.fields_by_name["mode"].enum_type.values_by_number[each.mode].name),
    Column("DONE", lambda each: each.Action.Name(each.action)),
    Column("HOW", field("message")),
    Column("TO DO", field("fix")),
    Column("DIGESTS", lambda each: ", ".join(map(short_digest, each.digests)), is_wide=True),
)
DATA_LABELS: Final = (_NAME, Column("LABELS", lambda each: pairs(each.labels)), _AGE)
POOLS: Final = (
    _NAME,
    Column("CLASS", lambda each: each.Class.Name(getattr(each, "class"))),
    Column("NODES", field("node_count")),
    Column("CAPACITY", lambda each: resources(each.capacity)),
    Column("ALLOCATED", lambda each: resources(each.allocated)),
    Column("RULE", lambda each: membership_rule(each.membership) if each.HasField("membership") else "-", is_wide=True),
    Column("LABELS", lambda each: pairs(each.labels), is_wide=True),
    _AGE,
)
NODES: Final = (
    _NAME,
    Column("POOL", lambda each: each.name.split("/")[1]),
    _STATE,
    Column("DEVICES", lambda each: f"{len(each.devices)} {each.devices[0].model}" if each.devices else "0"),
    Column("CAPACITY", lambda each: resources(each.capacity)),
    Column("ALLOCATED", lambda each: resources(each.allocated)),
    Column("STORAGE", lambda each: f"{each.capacity.storage_bytes / (1 << 30):g} GiB", is_wide=True),
    Column("NETWORK", lambda each: f"{each.capacity.network_mbps} Mbit/s" if each.capacity.network_mbps else "-", True),
    Column("LABELS", lambda each: pairs(each.labels), is_wide=True),
    Column("TAINTS", taints, is_wide=True),
    Column("ADDRESS", field("address"), is_wide=True),
    Column("AGENT", field("agent_version"), is_wide=True),
    _AGE,
)
QUEUES: Final = (
    _NAME,
    Column("PARENT", last_part("parent")),
    Column("WEIGHT", lambda each: f"{each.weight or 1:g}"),
    Column("POLICY", lambda each: each.Policy.Name(each.policy or each.FAIR_SHARE)),
    Column("OPEN", lambda each: each.StopPolicy.Name(each.stop_policy) if each.stop_policy else "yes"),
    Column("PENDING", field("pending_count")),
    Column("ADMITTED", field("admitted_count")),
    Column("USED", lambda each: ", ".join(shown_use(use.quota, use.used) for use in each.use) or "-"),
    Column("SHARE", lambda each: f"{each.share:.2f}"),
    Column("QUOTAS", lambda each: ", ".join(shown_quota(quota) for quota in each.quotas) or "-", is_wide=True),
    Column("PROJECTS", lambda each: ",".join(name.rpartition("/")[2] for name in each.projects) or "-", is_wide=True),
    Column("STRICT", lambda each: "yes" if each.strictness == each.STRICT else "no", is_wide=True),
    _AGE,
)
FLOATING_RESOURCES: Final = (
    _NAME,
    Column("CAPACITY", field("capacity")),
    Column("ALLOCATED", field("allocated")),
)
WORKLOADS: Final = (
    _NAME,
    Column("KIND", lambda each: each.Kind.Name(each.kind)),
    _STATE,
    Column("SLICES", slices),
    Column("GENERATION", field("generation")),
    Column("OWNER", field("owner")),
    Column("NODES", lambda each: ",".join(sorted({one.node.rpartition("/")[2] for one in each.slices})), is_wide=True),
    Column("WHY PENDING", lambda each: each.PendingReason.Name(each.pending_reason), is_wide=True),
    _MESSAGE,
    _AGE,
)
JOBS: Final = (
    _NAME,
    _STATE,
    Column("PROGRESS", progress),
    Column("METRICS", metrics),
    Column("WORKERS", lambda each: str(each.workers.count)),
    Column("NODES", lambda each: ",".join(name.rpartition("/")[2] for name in each.nodes), is_wide=True),
    Column("GENERATION", field("generation"), is_wide=True),
    Column("RESTARTS", field("restarts"), is_wide=True),
    Column("PACKAGE", lambda each: short_digest(each.package), is_wide=True),
    _MESSAGE,
    _AGE,
)
CHECKPOINTS: Final = (
    _NAME,
    Column("STEP", field("step")),
    Column("GENERATION", field("generation")),
    Column("BYTES", field("size_bytes")),
    Column("MANIFEST", lambda each: short_digest(each.manifest)),
    Column("METRICS", metrics),
    _AGE,
)
MODELS: Final = (
    _NAME,
    Column("LATEST", field("latest_version")),
    Column("ALIASES", lambda each: ", ".join(f"{name}={each.aliases[name]}" for name in sorted(each.aliases)) or "-"),
    _FULL,
    _AGE,
)
VERSIONS: Final = (
    Column("VERSION", lambda each: "@".join(each.name.split("/")[3::2])),
    Column("STAGE", lambda each: "quarantined" if each.quarantine else stage(each)),
    Column("PACKAGE", lambda each: short_digest(each.package)),
    Column("METRICS", metrics),
    Column("MADE BY", lambda each: each.lineage.job or each.lineage.parent or each.lineage.source),
    Column("TAGS", lambda each: pairs(each.tags), is_wide=True),
    _FULL,
    _AGE,
)
DEPLOYMENTS: Final = (
    _NAME,
    _STATE,
    Column("READY", lambda each: f"{each.ready_replicas}/{asked(each)}"),
    Column("MODEL", lambda each: "@".join(each.model_version.split("/")[3::2])),
    Column("MODEL NAME", field("model_name")),
    Column("GATEWAY", field("gateway"), is_wide=True),
    _MESSAGE,
    _AGE,
)
ROLLOUTS: Final = (
    _NAME,
    Column("ROLLOUT", lambda each: each.rollout.State.Name(each.rollout.state)),
    Column("STEP", lambda each: f"{each.rollout.step + 1}/{each.rollout.step_count or 1}"),
    Column("STABLE", lambda each: str(each.rollout.stable_revision or "-")),
    Column("NEW", lambda each: str(each.rollout.candidate_revision or "-")),
    Column("MESSAGE", lambda each: each.rollout.message),
)
REVISIONS: Final = (
    Column("REVISION", last_part()),
    _STATE,
    Column("READY", field("ready_replicas")),
    Column("MODEL", lambda each: "@".join(each.model_version.split("/")[3::2])),
    Column("PROMOTED", lambda each: age_of(each, "promote_time")),
    _AGE,
    _MESSAGE,
)
BATCH_PREDICTIONS: Final = (
    _NAME,
    _STATE,
    Column("MODEL", lambda each: "@".join(each.model_version.split("/")[3::2])),
    Column("ROWS", lambda each: f"{each.progress.rows_done}/{each.progress.rows or '?'}"),
    Column("BAD", lambda each: str(each.progress.bad_rows)),
    Column("ROWS/S", lambda each: f"{each.progress.rows_per_s:,.0f}" if each.progress.rows_per_s else "-"),
    Column("ETA", lambda each: duration(each.progress.eta_s) if each.progress.eta_s else "-"),
    Column("SHARDS", lambda each: f"{each.progress.shards_done}/{each.progress.shards or '?'}", is_wide=True),
    Column("WORKERS", lambda each: f"{each.progress.workers}/{each.max_workers}", is_wide=True),
    _MESSAGE,
    _AGE,
)
