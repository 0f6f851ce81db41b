"""How single values are shown in a table."""

from datetime import UTC, datetime
from typing import Any

from lepton.cli.arrays import counts


def last_part(field: str = "name") -> Any:
    """The last part of a name."""
    return lambda each: getattr(each, field).rpartition("/")[2]


def field(name: str) -> Any:
    """A field as text."""
    return lambda each: str(getattr(each, name))


def state(each: Any) -> str:
    """The state's name."""
    return str(each.DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number[each.state].name)


def moment(each: Any, field: str) -> str:
    """When it was, to the minute; "-" where it has not been."""
    if not each.HasField(field):
        return "-"
    return str(getattr(each, field).ToDatetime(tzinfo=UTC).strftime("%Y-%m-%d %H:%M"))


def age(each: Any) -> str:
    """How long ago it was created."""
    return age_of(each, "create_time")


def age_of(each: Any, field: str) -> str:
    """How long ago it was."""
    if not each.HasField(field):
        return "-"
    return duration((datetime.now(UTC) - getattr(each, field).ToDatetime(tzinfo=UTC)).total_seconds())


def duration(seconds: float) -> str:
    """A length of time in its two largest units."""
    whole = max(0, int(seconds))
    for unit, size, below, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part}{below}"
    return f"{whole}s"


def short_digest(digest: str) -> str:
    """The first digits of a digest."""
    return digest.removeprefix("sha256:")[:12]


def resources(each: Any) -> str:
    """What a slice or a node has."""
    return f"{each.cpu_milli / 1000:g} cpu, {each.memory_bytes / (1 << 30):g} GiB, {each.device_milli / 1000:g} dev"


def pairs(labels: Any) -> str:
    """Labels, sorted."""
    return ",".join(f"{key}={labels[key]}" for key in sorted(labels)) or "-"


def taints(node: Any) -> str:
    """The taints of a node."""
    shown = [
        f"{each.key}{'=' if each.value else ''}{each.value}:{each.Effect.Name(each.effect or 1)}"
        for each in node.taints
    ]
    return ",".join(shown) or "-"


def membership_rule(rule: Any) -> str:
    """A membership rule as it is written."""
    wanted = rule.at_least
    amounts = [f"{field.name}>={value}" for field, value in wanted.ListFields() if field.name != "device_models"]
    parts = [pairs(rule.match_labels) if rule.match_labels else "", *amounts, "|".join(wanted.device_models)]
    return f"{' '.join(part for part in parts if part) or 'any'} ({rule.precedence})"


def progress(job: Any) -> str:
    """Per cent."""
    return f"{100 * job.progress.fraction:.0f}%"


def metrics(each: Any) -> str:
    """The measurements that say most."""
    chosen = [name for name in ("loss", "accuracy", "test_accuracy", "golden_accuracy") if name in each.metrics]
    return " ".join(f"{name}={each.metrics[name]:.4g}" for name in chosen) or "-"


def stage(version: Any) -> str:
    """The stage of a version."""
    return str(type(version).Stage.Name(version.stage or 1)).lower()


def slices(workload: Any) -> str:
    """How many there are; of an array, how its tasks stand."""
    return counts(workload.array) if workload.HasField("array") else str(len(workload.slices))
