"""Prints resources as the user wishes: a table, a wide one, JSON, YAML, or names only."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table
from rich.text import Text

_UNLIMITED: Final = 4096  # columns of what is no terminal: nothing is cut off for the next program


class Form(StrEnum):
    """The form of the output."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; a wide one is shown by `-o wide` only."""

    title: str
    value: Callable[[Any], str]
    is_wide: bool = False


class Printer:
    """Prints to standard output in one form."""

    def __init__(self, form: Form, console: Console | None = None) -> None:
        self.form = form
        self._console = console or Console(highlight=False, soft_wrap=True)

    @property
    def is_for_people(self) -> bool:
        """Whether a person reads it, so that remarks may stand beside it."""
        return self.form in (Form.TABLE, Form.WIDE)

    @property
    def is_live(self) -> bool:
        """Whether a person watches a terminal, on which what was printed can be drawn over."""
        return self.is_for_people and self.console.is_terminal

    @property
    def console(self) -> Console:
        """Where it is printed."""
        return self._console

    def many(self, resources: Sequence[Message], columns: Sequence[Column]) -> None:
        """A list of resources."""
        if self.is_for_people:
            self._table(resources, columns)
        elif self.form is Form.NAME:
            for each in resources:
                self.text(name_of(each))
        else:
            self.document([as_dict(each) for each in resources])

    def one(self, resource: Message, columns: Sequence[Column]) -> None:
        """One resource."""
        if self.is_for_people:
            self._table([resource], columns)
        elif self.form is Form.NAME:
            self.text(name_of(resource))
        else:
            self.document(as_dict(resource))

    def change(self, resource: Message, columns: Sequence[Column]) -> None:
        """One resource of a stream of them: a line, or a document of its own."""
        if self.is_for_people:
            shown = [column for column in columns if self.form is Form.WIDE or not column.is_wide]
            self.text("  ".join(column.value(resource) for column in shown))
        elif self.form is Form.NAME:
            self.text(name_of(resource))
        else:
            self.document(as_dict(resource), compact=True)

    def document(self, document: Any, *, compact: bool = False) -> None:
        """Any data, as JSON or YAML."""
        if self.form is Form.YAML:
            import yaml  # seldom wanted

            separator = "---\n" if compact else ""
            self.text(separator + yaml.safe_dump(document, sort_keys=False, allow_unicode=True).rstrip())
            return
        self.text(json.dumps(document, indent=None if compact else 2, ensure_ascii=False))

    def text(self, line: str) -> None:
        """A line as it is."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _table(self, resources: Sequence[Message], columns: Sequence[Column]) -> None:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False, header_style="bold")
        shown = [column for column in columns if self.form is Form.WIDE or not column.is_wide]
        is_cut = self._console.is_terminal and self.form is Form.TABLE
        for column in shown:
            table.add_column(column.title, no_wrap=True, overflow="ellipsis" if is_cut else "ignore")
        for each in resources:
            table.add_row(*(Text(column.value(each)) for column in shown))
        self.table(table)

    def table(self, table: Table) -> None:
        """A table of any kind; cut to the width of a terminal, but for the next program it is whole."""
        if self._console.is_terminal and self.form is Form.TABLE:
            self._console.print(table)
            return
        wide = Console(file=io.StringIO(), width=_UNLIMITED, highlight=False)
        with wide.capture() as captured:
            wide.print(table)
        for line in captured.get().splitlines():
            self._console.out(line.rstrip(), highlight=False)


def as_dict(resource: Message) -> dict[str, Any]:
    """A message as JSON has it, with the proto's field names; fields that are not set are there too."""
    return MessageToDict(resource, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def name_of(resource: Any) -> str:
    """The resource's name."""
    return str(resource.name)
