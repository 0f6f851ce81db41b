"""What every resource name can do, and the answers for names that are wrong or lead nowhere."""

import re
from dataclasses import fields
from functools import cache, lru_cache
from typing import Any, ClassVar, Final, Self

from lepton.errors import InvalidArgument, NotFound

ID: Final = "[a-z]([a-z0-9-]{0,61}[a-z0-9])?"  # what a user may choose
CHOSEN: Final = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"  # what the system chooses
HEX: Final = "[0-9a-f]{64}"


class ResourceName:
    """What every name can do; `pattern` is its shape, the dataclass's fields are its variables, in order."""

    __slots__ = ()
    pattern: ClassVar[str]
    shapes: ClassVar[dict[str, str]] = {}  # variables that are not a plain id

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            check_id(getattr(self, field.name), field.name, self.shapes.get(field.name, ID))

    def __str__(self) -> str:
        return self.pattern.format(**{field.name: getattr(self, field.name) for field in fields(self)})  # type: ignore[arg-type]

    @classmethod
    def parse(cls, text: str, field: str = "name") -> Self:
        """The name that `text` spells; InvalidArgument naming `field` when it spells none."""
        match = _matcher(cls.pattern).fullmatch(text)
        if match is None:
            raise _invalid(field, cls.pattern)
        try:
            return cls(**match.groupdict())
        except InvalidArgument as error:
            raise _invalid(field, cls.pattern) from error


def check_id(value: str, field: str, shape: str = ID) -> str:
    """The id itself when it has the shape, else InvalidArgument naming the field."""
    if not re.fullmatch(shape, value, re.ASCII):
        raise _invalid(field, f"^{shape}$")
    return value


def project_of(resource: str) -> str | None:
    """The id of the project in which a resource or collection lies; None for what belongs to no project."""
    collection, _, rest = resource.partition("/")
    return rest.partition("/")[0] or None if collection == "projects" else None


def not_found(name: ResourceName | str) -> NotFound:
    """The one answer for a resource that is absent or that the caller may not know of: built from its name only."""
    text = str(name)[:256]
    collection = text.split("/")[-2] if text.count("/") % 2 else ""
    kind = _kinds().get(collection, "resource")
    facts: Any = {kind: text}
    return NotFound(f"{kind.upper()}_NOT_FOUND", **facts)


@cache
def _kinds() -> dict[str, str]:
    """By collection; importing any of this package has defined all of them."""
    return {
        kind.pattern.split("/")[-2]: kind.pattern.split("/")[-1].strip("{}") for kind in ResourceName.__subclasses__()
    }


@lru_cache(maxsize=64)
def _matcher(pattern: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern), re.ASCII)


def _invalid(field: str, pattern: str) -> InvalidArgument:
    bad = {field: f"must have the form {pattern}"}
    return InvalidArgument("INVALID_NAME", fields=bad, field=field, pattern=pattern)
