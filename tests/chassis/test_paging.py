"""Pages are consistent, bounded, and their tokens serve only the request they came from."""

import pytest

from chassis.kv import Put
from chassis.paging import MAX_SIZE, Pager
from lepton.auth.v1.directory_service_pb2 import ListServiceAccountsRequest, ListUsersRequest
from lepton.errors import InvalidArgument, OutOfRange
from tests.harness.memory_kv import MemoryKV

PREFIX = "/test/things/"


async def filled(count: int) -> MemoryKV:
    kv = MemoryKV()
    for first in range(0, count, 100):
        await kv.txn([], [Put(f"{PREFIX}{at:05d}", b"x") for at in range(first, min(first + 100, count))])
    return kv


async def opened(kv: MemoryKV) -> Pager:
    return await Pager.open(kv, "/test/page_key")


async def test_pages_follow_each_other_without_gap_or_repeat() -> None:
    pager = await opened(await filled(7))
    seen: list[str] = []
    token, pages = "", 0
    while True:
        listing = await pager.page(PREFIX, ListUsersRequest(page_size=3, page_token=token))
        seen += [entry.key for entry in listing.entries]
        token, pages = listing.next_page_token, pages + 1
        if not token:
            break
    assert seen == [f"{PREFIX}{at:05d}" for at in range(7)]
    assert pages == 3


async def test_a_full_last_page_has_no_token() -> None:
    pager = await opened(await filled(3))
    assert (await pager.page(PREFIX, ListUsersRequest(page_size=3))).next_page_token == ""


async def test_later_pages_show_the_state_of_the_first() -> None:
    kv = await filled(4)
    pager = await opened(kv)
    first = await pager.page(PREFIX, ListUsersRequest(page_size=2))
    await kv.put(f"{PREFIX}00003x", b"new")
    second = await pager.page(PREFIX, ListUsersRequest(page_size=2, page_token=first.next_page_token))
    assert [entry.key for entry in second.entries] == [f"{PREFIX}00002", f"{PREFIX}00003"]
    assert second.next_page_token == ""


async def test_sizes_have_a_default_and_a_limit() -> None:
    pager = await opened(await filled(1200))
    assert len((await pager.page(PREFIX, ListUsersRequest())).entries) == 50
    assert len((await pager.page(PREFIX, ListUsersRequest(page_size=5000))).entries) == MAX_SIZE
    with pytest.raises(InvalidArgument):
        await pager.page(PREFIX, ListUsersRequest(page_size=-1))


async def test_kept_entries_fill_whole_pages() -> None:
    pager = await opened(await filled(500))
    listing = await pager.page(PREFIX, ListUsersRequest(page_size=5), keep=lambda entry: entry.key.endswith("99"))
    assert [entry.key[-5:] for entry in listing.entries] == ["00099", "00199", "00299", "00399", "00499"]
    assert listing.next_page_token == ""


@pytest.mark.parametrize("token", ["x", "AAAA", "A" * 60, "ä", "=="])
async def test_a_made_up_token_is_refused(token: str) -> None:
    pager = await opened(await filled(3))
    with pytest.raises(InvalidArgument) as caught:
        await pager.page(PREFIX, ListUsersRequest(page_token=token))
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


async def test_a_token_serves_only_its_own_request() -> None:
    pager = await opened(await filled(5))
    request = ListServiceAccountsRequest(parent="projects/a", page_size=2)
    token = (await pager.page(PREFIX, request)).next_page_token
    for other in (
        ListServiceAccountsRequest(parent="projects/b", page_token=token),
        ListUsersRequest(page_token=token),
    ):
        with pytest.raises(InvalidArgument):
            await pager.page(PREFIX, other)
    with pytest.raises(InvalidArgument):
        await pager.page("/test/", ListServiceAccountsRequest(parent="projects/a", page_token=token))
    same = ListServiceAccountsRequest(parent="projects/a", page_size=4, page_token=token)
    assert len((await pager.page(PREFIX, same)).entries) == 3


async def test_a_compacted_position_is_out_of_range() -> None:
    kv = await filled(5)
    pager = await opened(kv)
    first = await pager.page(PREFIX, ListUsersRequest(page_size=2))
    revision = await kv.put(f"{PREFIX}z", b"x")
    await kv.compact(revision)
    with pytest.raises(OutOfRange) as caught:
        await pager.page(PREFIX, ListUsersRequest(page_size=2, page_token=first.next_page_token))
    assert caught.value.reason == "PAGE_TOKEN_EXPIRED"


async def test_replicas_accept_each_others_tokens() -> None:
    kv = await filled(5)
    one, other = await opened(kv), await opened(kv)
    token = (await one.page(PREFIX, ListUsersRequest(page_size=2))).next_page_token
    assert len((await other.page(PREFIX, ListUsersRequest(page_token=token))).entries) == 3
