"""Which columns the tables of each kind of resource have."""

from datetime import UTC, datetime
from typing import Any, Final

from lepton.cli.arrays import counts
from lepton.cli.autoscaling_options import asked
from lepton.cli.condition_options import shown_condition
from lepton.cli.output import Column
from lepton.cli.quotas import shown_quota, shown_use


def _last(field: str = "name") -> Any:
    return lambda each: getattr(each, field).rpartition("/")[2]


def _field(field: str) -> Any:
    return lambda each: str(getattr(each, field))


def state(each: Any) -> str:
    """The state's name."""
    return str(each.DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number[each.state].name)


def _moment(each: Any, field: str) -> str:
    if not each.HasField(field):
        return "-"
    return str(getattr(each, field).ToDatetime(tzinfo=UTC).strftime("%Y-%m-%d %H:%M"))


def _age(each: Any) -> str:
    if not each.HasField("create_time"):
        return "-"
    return duration((datetime.now(UTC) - each.create_time.ToDatetime(tzinfo=UTC)).total_seconds())


def _age_of(each: Any, field: str) -> str:
    if not each.HasField(field):
        return "-"
    return duration((datetime.now(UTC) - getattr(each, field).ToDatetime(tzinfo=UTC)).total_seconds())


def _when(each: Any, field: str) -> str:
    return getattr(each, field).ToDatetime(tzinfo=UTC).strftime("%Y-%m-%d %H:%M") if each.HasField(field) else "-"


def duration(seconds: float) -> str:
    """A length of time in its two largest units."""
    whole = max(0, int(seconds))
    for unit, size, below, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part}{below}"
    return f"{whole}s"


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _resources(each: Any) -> str:
    return f"{each.cpu_milli / 1000:g} cpu, {each.memory_bytes / (1 << 30):g} GiB, {each.device_milli / 1000:g} dev"


def _pairs(labels: Any) -> str:
    return ",".join(f"{key}={labels[key]}" for key in sorted(labels)) or "-"


def _taints(node: Any) -> str:
    shown = [
        f"{each.key}{'=' if each.value else ''}{each.value}:{each.Effect.Name(each.effect or 1)}"
        for each in node.taints
    ]
    return ",".join(shown) or "-"


def _rule(rule: Any) -> str:
    """A membership rule as it is written."""
    wanted = rule.at_least
    amounts = [f"{field.name}>={value}" for field, value in wanted.ListFields() if field.name != "device_models"]
    parts = [_pairs(rule.match_labels) if rule.match_labels else "", *amounts, "|".join(wanted.device_models)]
    return f"{' '.join(part for part in parts if part) or 'any'} ({rule.precedence})"


def _progress(job: Any) -> str:
    return f"{100 * job.progress.fraction:.0f}%"


def _metrics(each: Any) -> str:
    chosen = [name for name in ("loss", "accuracy", "test_accuracy", "golden_accuracy") if name in each.metrics]
    return " ".join(f"{name}={each.metrics[name]:.4g}" for name in chosen) or "-"


def _stage(version: Any) -> str:
    return str(type(version).Stage.Name(version.stage or 1)).lower()


def _slices(workload: Any) -> str:
    """How many there are; of an array, how its tasks stand."""
    return counts(workload.array) if workload.HasField("array") else str(len(workload.slices))


_NAME: Final = Column("NAME", _last())
_FULL: Final = Column("RESOURCE", _field("name"), is_wide=True)
_STATE: Final = Column("STATE", state)
_AGE: Final = Column("AGE", _age)
_MESSAGE: Final = Column("MESSAGE", _field("message"), is_wide=True)

PROJECTS: Final = (_NAME, Column("DISPLAY NAME", _field("display_name")), _AGE)
PROJECT_KEYS: Final = (
    Column("KEY", _field("key_id")),
    Column("SEALS", lambda each: each.Purpose.Name(each.purpose).lower()),
    Column("VERSION", _field("version")),
    Column("WRAPPED BY", lambda each: "the current key" if each.is_current else "a former key, for now"),
    _AGE,
)
USERS: Final = (_NAME, Column("DISPLAY NAME", _field("display_name")), Column("DISABLED", _field("disabled")), _AGE)
SERVICE_ACCOUNTS: Final = (_NAME, Column("RESOURCE", _field("name")), _AGE)
USER_IDENTITIES: Final = (
    Column("PROVIDER", _field("provider")),
    Column("SUBJECT", _field("subject")),
    Column("LAST SIGN-IN", lambda each: _when(each, "last_sign_in_time")),
    Column("ROLES GIVEN", lambda each: str(len(each.role_bindings))),
    Column("RESOURCE", _field("name")),
)
WORKLOAD_TRUSTS: Final = (
    _NAME,
    Column("ISSUER", _field("issuer")),
    Column("SUBJECT", _field("subject")),
    Column("AUDIENCE", _field("audience")),
    _AGE,
)
API_KEYS: Final = (
    _NAME,
    Column("ACCOUNT", lambda each: each.name.split("/")[3]),
    Column("PREFIX", _field("prefix")),
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
    Column("DISABLED", _field("disabled")),
    Column("LAST USE", lambda each: _moment(each, "last_use_time")),
    _FULL,
    _AGE,
)
SECRET_VERSIONS: Final = (
    Column("VERSION", lambda each: str(each.version)),
    Column("STATE", state),
    Column("MADE", lambda each: _moment(each, "create_time")),
    Column("LAST USE", lambda each: _moment(each, "last_use_time")),
)
ROLES: Final = (
    _NAME,
    Column("BUILT IN", _field("built_in")),
    Column("PERMISSIONS", lambda each: ", ".join(each.permissions)),
    _AGE,
)
AUTHORITIES: Final = (
    Column("AUTHORITY", lambda each: each.fingerprint[:16]),
    Column("STATE", state),
    Column("SIGNS FROM", lambda each: _when(each, "sign_time")),
    Column("TRUSTED UNTIL", lambda each: _when(each, "trust_end_time")),
    Column("FINGERPRINT", _field("fingerprint"), is_wide=True),
    _AGE,
)
SIGNING_KEYS: Final = (Column("KEY", _field("kid")), Column("SIGNS", _field("signs")), _AGE)
ROLE_BINDINGS: Final = (
    _NAME,
    Column("ROLE", _last("role")),
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
    Column("SEQUENCE", _field("sequence")),
    Column("TIME", lambda each: each.time.ToDatetime(tzinfo=UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]),
    Column("ACTOR", lambda each: each.actor or "-"),
    Column("ACTION", _last("action")),
    Column("RESOURCE", lambda each: each.resource or "-"),
    Column("OUTCOME", lambda each: each.Outcome.Name(each.outcome)),
    Column("REASON", lambda each: each.reason or "-"),
    Column("COUNT", _field("count"), is_wide=True),
    Column("SERVICE", _field("service"), is_wide=True),
    Column("SOURCE", _field("source"), is_wide=True),
    Column("POLICY", _field("policy_revision"), is_wide=True),
    Column("TRACE", lambda each: each.trace_id or "-", is_wide=True),
)
AUDIT_FINDINGS: Final = (
    Column("FOUND", lambda each: each.Kind.Name(each.kind)),
    Column("FIRST", _field("first")),
    Column("LAST", _field("last")),
    Column("WHAT", _field("message")),
)
COMPLIANCE_POLICIES: Final = (
    Column("NAME", _field("name")),
    Column("MODE", lambda each: each.Mode.Name(each.mode)),
    Column("REMEDY", lambda each: each.Remedy.Name(each.remedy)),
    Column("RULES", lambda each: ", ".join(f"{rule.id} ({rule.WhichOneof('kind')})" for rule in each.rules)),
    Column("PROJECTS", lambda each: ", ".join(each.projects) or "all", is_wide=True),
    _AGE,
)
COMPLIANCE_EXEMPTIONS: Final = (
    Column("NAME", _field("name")),
    Column("FOR", _field("resource")),
    Column("RULES", lambda each: ", ".join(each.rules) or "all"),
    Column("UNTIL", lambda each: each.expire_time.ToDatetime(tzinfo=UTC).strftime("%Y-%m-%d %H:%M")),
    Column("REASON", _field("reason")),
    Column("BY", _field("creator"), is_wide=True),
)
COMPLIANCE_FINDINGS: Final = (
    Column("RESOURCE", _field("resource")),
    Column("POLICY", _last("policy")),
    Column("RULE", _field("rule")),
    Column("MODE", lambda each: each.DESCRIPTOR.fields_by_name["mode"].enum_type.values_by_number[each.mode].name),
    Column("DONE", lambda each: each.Action.Name(each.action)),
    Column("HOW", _field("message")),
    Column("TO DO", _field("fix")),
    Column("DIGESTS", lambda each: ", ".join(map(_short, each.digests)), is_wide=True),
)
DATA_LABELS: Final = (_NAME, Column("LABELS", lambda each: _pairs(each.labels)), _AGE)
POOLS: Final = (
    _NAME,
    Column("CLASS", lambda each: each.Class.Name(getattr(each, "class"))),
    Column("NODES", _field("node_count")),
    Column("CAPACITY", lambda each: _resources(each.capacity)),
    Column("ALLOCATED", lambda each: _resources(each.allocated)),
    Column("RULE", lambda each: _rule(each.membership) if each.HasField("membership") else "-", is_wide=True),
    Column("LABELS", lambda each: _pairs(each.labels), is_wide=True),
    _AGE,
)
NODES: Final = (
    _NAME,
    Column("POOL", lambda each: each.name.split("/")[1]),
    _STATE,
    Column("DEVICES", lambda each: f"{len(each.devices)} {each.devices[0].model}" if each.devices else "0"),
    Column("CAPACITY", lambda each: _resources(each.capacity)),
    Column("ALLOCATED", lambda each: _resources(each.allocated)),
    Column("STORAGE", lambda each: f"{each.capacity.storage_bytes / (1 << 30):g} GiB", is_wide=True),
    Column("NETWORK", lambda each: f"{each.capacity.network_mbps} Mbit/s" if each.capacity.network_mbps else "-", True),
    Column("LABELS", lambda each: _pairs(each.labels), is_wide=True),
    Column("TAINTS", _taints, is_wide=True),
    Column("ADDRESS", _field("address"), is_wide=True),
    Column("AGENT", _field("agent_version"), is_wide=True),
    _AGE,
)
QUEUES: Final = (
    _NAME,
    Column("PARENT", _last("parent")),
    Column("WEIGHT", lambda each: f"{each.weight or 1:g}"),
    Column("POLICY", lambda each: each.Policy.Name(each.policy or each.FAIR_SHARE)),
    Column("OPEN", lambda each: each.StopPolicy.Name(each.stop_policy) if each.stop_policy else "yes"),
    Column("PENDING", _field("pending_count")),
    Column("ADMITTED", _field("admitted_count")),
    Column("USED", lambda each: ", ".join(shown_use(use.quota, use.used) for use in each.use) or "-"),
    Column("SHARE", lambda each: f"{each.share:.2f}"),
    Column("QUOTAS", lambda each: ", ".join(shown_quota(quota) for quota in each.quotas) or "-", is_wide=True),
    Column("PROJECTS", lambda each: ",".join(name.rpartition("/")[2] for name in each.projects) or "-", is_wide=True),
    Column("STRICT", lambda each: "yes" if each.strictness == each.STRICT else "no", is_wide=True),
    _AGE,
)
FLOATING_RESOURCES: Final = (
    _NAME,
    Column("CAPACITY", _field("capacity")),
    Column("ALLOCATED", _field("allocated")),
)
WORKLOADS: Final = (
    _NAME,
    Column("KIND", lambda each: each.Kind.Name(each.kind)),
    _STATE,
    Column("SLICES", _slices),
    Column("GENERATION", _field("generation")),
    Column("OWNER", _field("owner")),
    Column("NODES", lambda each: ",".join(sorted({one.node.rpartition("/")[2] for one in each.slices})), is_wide=True),
    Column("WHY PENDING", lambda each: each.PendingReason.Name(each.pending_reason), is_wide=True),
    _MESSAGE,
    _AGE,
)
JOBS: Final = (
    _NAME,
    _STATE,
    Column("PROGRESS", _progress),
    Column("METRICS", _metrics),
    Column("WORKERS", lambda each: str(each.workers.count)),
    Column("NODES", lambda each: ",".join(name.rpartition("/")[2] for name in each.nodes), is_wide=True),
    Column("GENERATION", _field("generation"), is_wide=True),
    Column("RESTARTS", _field("restarts"), is_wide=True),
    Column("PACKAGE", lambda each: _short(each.package), is_wide=True),
    _MESSAGE,
    _AGE,
)
CHECKPOINTS: Final = (
    _NAME,
    Column("STEP", _field("step")),
    Column("GENERATION", _field("generation")),
    Column("BYTES", _field("size_bytes")),
    Column("MANIFEST", lambda each: _short(each.manifest)),
    Column("METRICS", _metrics),
    _AGE,
)
MODELS: Final = (
    _NAME,
    Column("LATEST", _field("latest_version")),
    Column("ALIASES", lambda each: ", ".join(f"{name}={each.aliases[name]}" for name in sorted(each.aliases)) or "-"),
    _FULL,
    _AGE,
)
VERSIONS: Final = (
    Column("VERSION", lambda each: "@".join(each.name.split("/")[3::2])),
    Column("STAGE", lambda each: "quarantined" if each.quarantine else _stage(each)),
    Column("PACKAGE", lambda each: _short(each.package)),
    Column("METRICS", _metrics),
    Column("MADE BY", lambda each: each.lineage.job or each.lineage.parent or each.lineage.source),
    Column("TAGS", lambda each: _pairs(each.tags), is_wide=True),
    _FULL,
    _AGE,
)
DEPLOYMENTS: Final = (
    _NAME,
    _STATE,
    Column("READY", lambda each: f"{each.ready_replicas}/{asked(each)}"),
    Column("MODEL", lambda each: "@".join(each.model_version.split("/")[3::2])),
    Column("MODEL NAME", _field("model_name")),
    Column("GATEWAY", _field("gateway"), is_wide=True),
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
    Column("REVISION", _last()),
    _STATE,
    Column("READY", _field("ready_replicas")),
    Column("MODEL", lambda each: "@".join(each.model_version.split("/")[3::2])),
    Column("PROMOTED", lambda each: _age_of(each, "promote_time")),
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
