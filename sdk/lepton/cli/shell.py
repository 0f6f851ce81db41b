"""What a command works with: where to print, whom to talk to, and the trace that it is part of."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import typer
from rich.console import Console

from lepton import tracing
from lepton.cli import exits, failures
from lepton.cli.output import Form, Printer
from lepton.client import AsyncClient
from lepton.errors import LeptonError
from lepton.profile import Profile

_WORKLOAD: Final = ("service_account", "id_token_file")
LOGIN: Final[Mapping[str, str]] = dict.fromkeys(("api_key", *_WORKLOAD), "")
"""What `login` and `logout` give a client: what the environment says would keep what comes of it in memory only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """The options that every command has."""

    output: Form = Form.TABLE
    project: str = ""
    patience: float = 20.0
    trace: bool = False


class Shell:
    """One run of one command."""

    def __init__(self, wishes: Wishes) -> None:
        self.wishes = wishes
        self.printer = Printer(wishes.output)
        self.stderr = Console(stderr=True, highlight=False, soft_wrap=True)
        self._is_told = False

    def client(self, **options: Any) -> AsyncClient:
        """A client that is signed in as `lepton login` left it, by LEPTON_API_KEY, or by LEPTON_ID_TOKEN_FILE."""
        given = {name: os.environ.get(f"LEPTON_{name.upper()}", "") for name in ("api_key", *_WORKLOAD)}
        options = {**given, **options}
        return AsyncClient.open(
            Profile.load(),
            project=self.wishes.project,
            patience_s=self.wishes.patience,
            on_retry=self._tell_retry,
            on_warning=lambda text: self.note(f"warning: {text}"),
            **options,
        )

    def note(self, text: str) -> None:
        """A remark for people, beside the output."""
        self.stderr.print(text, markup=False)

    def run(self, title: str, command: Callable[[], Coroutine[Any, Any, int | None]]) -> None:
        """Run a command to its end; raises typer.Exit with its exit code when that is not 0."""
        try:
            with self._traced(title):
                code = asyncio.run(command())
        except LeptonError as error:
            for line in failures.lines(error):
                self.note(line)
            raise typer.Exit(failures.exit_code(error)) from None
        except ExceptionGroup as group:
            raise self._first(group) from None
        except KeyboardInterrupt:
            raise typer.Exit(exits.INTERRUPTED) from None
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            self.note(f"error: {error}")
            raise typer.Exit(exits.FAILED) from None
        if code:
            raise typer.Exit(code)

    def _first(self, group: BaseException) -> typer.Exit:
        while isinstance(group, BaseExceptionGroup):
            group = group.exceptions[0]
        if not isinstance(group, LeptonError):
            raise group
        for line in failures.lines(group):
            self.note(line)
        return typer.Exit(failures.exit_code(group))

    @contextlib.contextmanager
    def _traced(self, title: str) -> Iterator[None]:
        if not self.wishes.trace:
            yield
            return
        profile = Profile.load()
        endpoint, roots = profile.otlp, profile.trust_bundle
        if not endpoint:
            self.note("the profile names no trace collector, so nothing is traced")
        sending = tracing.tracing("lepton-cli", otlp_endpoint=endpoint, otlp_certificate=roots)
        with sending, tracing.span(title) as span:
            trace_id = span.traceparent.split("-")[1] if endpoint else ""
            try:
                yield
            finally:
                if trace_id:
                    self.note(f"trace: {trace_id}   (lepton trace {trace_id})")

    def _tell_retry(self, error: LeptonError) -> None:
        if not self._is_told:
            self._is_told = True
            self.note(f"a service does not answer ({error.reason}); trying again for {self.wishes.patience:g} s ...")


def read_secret(path: str, prompt: str) -> str:
    """A secret: from a file, from standard input when that is no terminal (or the file is `-`), else asked for."""
    if path and path != "-":
        with open(path) as file:  # noqa: PTH123 - a process substitution is a path too
            return file.read().strip()
    if path == "-" or not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    return str(typer.prompt(prompt, hide_input=True, err=True))
