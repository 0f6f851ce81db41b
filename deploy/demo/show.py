"""What the demo prints: numbered steps with their times, and notes under them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Show:
    """Prints steps as they happen and remembers how long each took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, key: str, title: str) -> Iterator[None]:
        """One step of the story; timed also when it fails."""
        print(f"\n{len(self.seconds) + 1}. {title}", flush=True)
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[key] = round(time.monotonic() - began, 3)
        print(f"   done in {self.seconds[key]:.1f} s", flush=True)

    def note(self, text: str) -> None:
        """A line under the present step."""
        print(f"   {text}", flush=True)
