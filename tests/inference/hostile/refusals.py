"""What a refusal may say: a code, what is wrong with the call, and nothing of how the servers are built."""

import re

from tests.inference.hostile.world import Refusal

INTERNALS = re.compile(
    r"Traceback|\bat 0x|\.(cc|cpp|h|py):\d|/tmp/|/work/|/opt/|/root/|/usr/|127\.0\.0\.1|\[::1\]|localhost:|envoy|"
    r"upstream|std::|nullptr|onnxruntime_src|RuntimeError|ValueError|KeyError|site-packages",
    re.IGNORECASE,
)


def assert_clean(seen: Refusal, *codes: str) -> None:
    """A typed refusal that tells the caller what is wrong and nothing of how we are built."""
    assert seen.code in codes, seen
    assert seen.code == "OK" or not INTERNALS.search(seen.text), seen
    assert len(seen.text) < 32_768
