"""Looks for leaks: the same request about what another tenant has and about what nobody has must be answered alike."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from tests.tenancy.answers import Answer, ask
from tests.tenancy.population import ORGANISATIONS, Belongings
from tests.tenancy.rpcs import Rpc, put, string_fields
from tests.tenancy.world import World

TRIES: Final = 3
KNOWN: Final = {
    # Users are the organisation's, not a tenant's: who gives somebody a role is told when there is nobody of that name,
    # for a role that waits for whoever gets the name later would be worse.
    ("CreateRoleBinding", "role_binding.members", "users/"),
    ("PreviewAccessChange", "create_role_binding.role_binding.members", "users/"),
}
"""What may be told apart: a method, a field, and how the names begin for which that is so."""
_TEXTS: Final = frozenset({
    "address", "alias", "argv", "class", "classes", "columns", "csr_pem", "datatype", "description", "device_models",
    "display_name", "entry_point", "environment", "etag", "failure_class", "inputs", "key", "keys", "labels", "level",
    "match_labels", "message", "metric", "module", "node_selector", "outputs", "password", "permissions", "reason",
    "requirements", "resources", "states", "tags", "tolerated_taints", "value", "vocabulary", "working_directory",
})  # fmt: skip
"""Fields that mean nothing to a service, or nothing that could be a name; only the slow test fills them."""
_TURNED: Final = str.maketrans("0123456789abcdef", "1234567890bcdefa")  # a digit stays one: fields look at that
_NUMBERS: Final = count()
_FRESH: Final = re.compile(rb"t\d{7}")
_DIGESTS: Final = (
    "digest", "dataset", "package", "artifact", "manifest", "golden", "repository", "initial_model", "source", "files",
    "plan", "variants",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Leak:
    """Something that told one tenant of another."""

    rpc: str
    what: str
    existing: object
    absent: object = ""

    def __str__(self) -> str:
        return f"{self.rpc}: {self.what}\n  existing {self.existing}\n  absent   {self.absent}"


@dataclass
class Prober:
    """A caller, and the tenant about whom it must learn nothing."""

    world: World
    caller: Belongings
    other: Belongings
    calls: int = 0

    @property
    def canaries(self) -> tuple[str, ...]:
        """What is the other's alone: its word, which all its names and secrets hold, its digests and uids."""
        other = self.other
        return (other.word, *(each.removeprefix("sha256:") for each in other.digests.values()), *other.uids.values())

    def fresh(self) -> str:
        """An id that nothing has yet; all are as long."""
        return f"t{next(_NUMBERS):07d}"

    async def ask(self, rpc: Rpc, request: Any, token: str | None = None, **options: Any) -> Answer:
        """Call as the caller, or with another token."""
        self.calls += 1
        token = self.caller.token if token is None else token
        if rpc.name == "SignOut" and token:
            token = await self.world.sign_in(self.caller.user.removeprefix("users/"))  # it is spent by this
        connection = await self.world.connect(self.world.served[rpc.path], token)
        return await ask(connection, rpc, request, **options)

    async def foreign(self, rpc: Rpc, token: str | None = None) -> list[Leak]:
        """What a method lets out that is called as its owner would: absent ids and absent projects look the same."""
        existing = rpc.request(self.other, self.fresh())
        found = await self.ask(rpc, existing, token)
        leaks = []
        if rpc.is_in_project and found.code != "NOT_FOUND":
            leaks.append(Leak(rpc.path, "is not NOT_FOUND", found))
        for what, absent in (
            ("a resource", self._without(existing)),
            ("a project", self._without(existing, "project")),
        ):
            alike = self._back(await self.ask(rpc, absent, token))
            if found.settled(rpc) != alike.settled(rpc):
                leaks.append(Leak(rpc.path, f"differs from {what} that is absent", found, alike))
        if token is None and rpc.is_in_project:
            leaks += await self._under_own_name(rpc, existing)
        return leaks

    async def sweep(self, rpc: Rpc, request: Any) -> list[Leak]:
        """What of the other's is in an answer to a request that does not speak of it."""
        answer = await self.ask(rpc, request)
        if answer.code == "INVALID_ARGUMENT":
            return [Leak(rpc.path, "was not asked anything: correct its request in rpcs.py", answer)]
        held = answer.holds(self.canaries)
        return [Leak(rpc.path, f"tells {held}", answer)] if held else []

    async def references(self, rpc: Rpc, *, every: bool = False) -> list[Leak]:
        """What a method lets out whose request about the caller's own names something of the other's anywhere."""
        leaks = []
        for path in string_fields(rpc.descriptor.input_type, outputs=every):
            last = path.rpartition(".")[2]
            if path == rpc.rule.resource or last in ("page_token", "paths"):
                continue
            if not every and (last in _TEXTS or (last.endswith("_id") and last != "request_id")):
                continue
            for existing in self._mentions(path, every=every):
                if any((rpc.name, path) == known[:2] and existing.startswith(known[2]) for known in KNOWN):
                    continue
                absent = self._absent(existing)
                leak = await self._reference(rpc, path, existing, absent)
                leaks += [leak] if leak is not None else []
        return leaks

    async def _reference(self, rpc: Rpc, path: str, existing: str, absent: str) -> Leak | None:
        """A difference that shows at every try: what runs beside may change one answer, never all of them."""
        found, alike = set(), set()
        for _ in range(TRIES):
            found.add(await self._mentioned(rpc, path, existing))
            alike.add(await self._mentioned(rpc, path, absent))
            if found & alike:
                return None
        return Leak(rpc.path, f"{path} = {existing}", next(iter(found)), next(iter(alike)))

    async def _mentioned(self, rpc: Rpc, path: str, value: str) -> Answer:
        request = rpc.request(self.caller, self.fresh())
        put(request, path, value)
        return self._back(await self.ask(rpc, request)).anonymous(_FRESH).settled(rpc)

    async def _under_own_name(self, rpc: Rpc, existing: Any) -> list[Leak]:
        """The other's ids within the caller's own project: they are nobody's there."""
        here, absent = self._as_own(existing), self._as_own(self._without(existing))
        is_its_own = rpc.resource(here) == self.caller.project and not rpc.is_read  # a new thing of the caller's
        if rpc.streams_responses or is_its_own or here.SerializeToString() == absent.SerializeToString():
            return []
        found = await self.ask(rpc, here)
        fresh = self.fresh().encode()
        absent = type(absent).FromString(_FRESH.sub(fresh, absent.SerializeToString()))
        alike = self._back(await self.ask(rpc, absent))
        found, alike = found.anonymous(_FRESH), alike.anonymous(_FRESH)
        if found.settled(rpc) == alike.settled(rpc):
            return []
        return [Leak(rpc.path, "its ids are known in another project", found, alike)]

    def _as_own(self, request: Any) -> Any:
        project, own = f"projects/{self.other.word}".encode(), f"projects/{self.caller.word}".encode()
        return type(request).FromString(request.SerializeToString().replace(project, own))

    def _mentions(self, path: str, *, every: bool) -> Sequence[str]:
        """What of the other's may be put into a field, by what the field is called and what it is a part of."""
        other, field_name = self.other, path.rpartition(".")[2]
        plain = path.replace("_", "").replace(".", "")
        close = [name for kind, name in other.names.items() if kind.lower() in plain and kind not in ORGANISATIONS]
        if every:
            served = f"{other.word}.{other.names['Deployment'].rpartition('/')[2]}"
            return [*close, other.names["Job"], other.digests["dataset"], other.uids["Job"], other.user, served]
        if field_name == "request_id":
            return [other.request_id]
        if field_name == "filter":
            return [f'name = "{other.names["Model"]}"', f'tags.team = "{other.secret}"']
        if any(part in field_name for part in _DIGESTS):
            return [other.digests["dataset"], other.digests["package"]]
        if field_name in ("members", "principal", "actor", "user"):
            return [other.names["ServiceAccount"], other.user]
        return close or [other.names["Job"]]

    def _absent(self, text: str) -> str:
        for present, twin in self._twins():
            text = text.replace(present, twin)
        return text

    def _without(self, request: Any, what: str = "resource") -> Any:
        """The same request about what nobody has: with other ids, within the same project or one that is absent."""
        data = request.SerializeToString()
        for present, twin in self._twins():
            data = data.replace(present.encode(), twin.encode())
        if what != "project":
            data = data.replace(f"projects/{self._twin_word}".encode(), f"projects/{self.other.word}".encode())
        return type(request).FromString(data)

    def _back(self, answer: Answer) -> Answer:
        for present, twin in self._twins():
            answer = answer.with_text(twin, present)
        return answer

    @property
    def _twin_word(self) -> str:
        return self.other.word[:-1] + "x"

    def _twins(self) -> Iterator[tuple[str, str]]:
        """Every text that is the other's with one as long that nobody has; how digests and uids begin suffices."""
        yield self.other.word, self._twin_word
        for digest in self.other.digests.values():
            begin = digest.removeprefix("sha256:")[:16]
            yield begin, begin.translate(_TURNED)
        for uid in (*self.other.uids.values(), self.other.request_id):
            yield uid[:8], uid[:8].translate(_TURNED)


async def all_leaks(rpcs: Iterable[Rpc], look: Callable[[Rpc], Any]) -> list[Leak]:
    """The leaks of many methods."""
    return [leak for rpc in rpcs for leak in await look(rpc)]
