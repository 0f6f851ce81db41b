"""The gateway's configuration: a pure function of the routes, written so that no reader ever sees half of it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from services.inference.envoy import Endpoint, Gateway, Route, Routes, TokenRules, render, write

A, B = Endpoint.parse("127.0.0.1:9001"), Endpoint.parse("127.0.0.1:9002")
DIGITS = Route(model="demo.digits", endpoints=(A, B))


def gateway(directory: Path, **settings: Any) -> Gateway:
    tokens = TokenRules(issuer="lepton", audience="lepton", jwks='{"keys": []}')
    return Gateway(
        directory=directory, tokens=tokens, certificate=directory / "c.pem", key=directory / "k.pem", **settings
    )


def document(files: dict[str, bytes], path: str) -> Any:
    return json.loads(files[path])["resources"]


def test_equal_routes_render_to_equal_bytes(tmp_path: Path) -> None:
    other = Route(model="demo.faces", endpoints=(A,))
    one = render(gateway(tmp_path), Routes(routes=(DIGITS, other)))
    assert one == render(gateway(tmp_path), Routes(routes=(other, DIGITS)))


def test_an_empty_route_table_is_complete(tmp_path: Path) -> None:
    files = render(gateway(tmp_path), Routes())
    assert [cluster["name"] for cluster in document(files, "cds.json")] == ["any-replica"]
    assert document(files, "eds/any-replica.json")[0]["endpoints"] == [{"lb_endpoints": []}]


def test_every_model_has_a_cluster_its_endpoints_and_two_routes(tmp_path: Path) -> None:
    files = render(gateway(tmp_path), Routes(routes=(DIGITS,)))
    assert [cluster["name"] for cluster in document(files, "cds.json")] == ["any-replica", "demo.digits"]
    lb_endpoints = document(files, "eds/demo.digits.json")[0]["endpoints"][0]["lb_endpoints"]
    assert [one["endpoint"]["address"]["socket_address"]["port_value"] for one in lb_endpoints] == [9001, 9002]
    (host,) = document(files, "rds.json")[0]["virtual_hosts"]
    found = host["matcher"]["matcher_tree"]["exact_match_map"]["map"]
    assert sorted(found) == ["*", "demo.digits", "demo.digits/stream"]


def test_a_replica_that_comes_or_goes_changes_only_endpoints(tmp_path: Path) -> None:
    before = render(gateway(tmp_path), Routes(routes=(DIGITS,)))
    after = render(gateway(tmp_path), Routes(routes=(Route(model="demo.digits", endpoints=(A,)),)))
    changed = {path for path in before if before[path] != after[path]}
    assert changed == {"eds/demo.digits.json", "eds/any-replica.json"}


def test_a_model_that_comes_or_goes_leaves_the_listener_alone(tmp_path: Path) -> None:
    assert (
        render(gateway(tmp_path), Routes())["lds.json"]
        == render(gateway(tmp_path), Routes(routes=(DIGITS,)))["lds.json"]
    )


def test_without_a_collector_nothing_is_traced(tmp_path: Path) -> None:
    assert b"tracing" not in render(gateway(tmp_path), Routes())["lds.json"]
    traced = render(gateway(tmp_path, collector=A, sampling=0.01), Routes())["lds.json"]
    manager = json.loads(traced)["resources"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    sampler = manager["tracing"]["provider"]["typed_config"]["sampler"]["typed_config"]["wrapped_sampler"]
    assert sampler["typed_config"]["sampling_percentage"] == {"numerator": 10_000, "denominator": "MILLION"}


@pytest.mark.parametrize(
    "model", ["digits", "demo.", ".digits", "demo.digits.v1", "Demo.digits", "demo.di/gits", "../x.y"]
)
def test_a_model_name_that_names_no_project_is_refused(model: str) -> None:
    with pytest.raises(ValueError, match=r"<project>\.<deployment id>"):
        Route(model=model, endpoints=())


def test_a_model_has_one_route() -> None:
    with pytest.raises(ValueError, match="more than one route"):
        Routes(routes=(DIGITS, DIGITS))


@pytest.mark.parametrize("text", ["", "localhost", ":80", "host:", "host:x", "host:0", "host:65536"])
def test_an_endpoint_is_host_and_port(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        Endpoint.parse(text)


def test_only_what_differs_is_replaced_and_leaves_come_before_what_names_them(tmp_path: Path) -> None:
    empty, full = render(gateway(tmp_path), Routes()), render(gateway(tmp_path), Routes(routes=(DIGITS,)))
    assert write(tmp_path, empty)[-2:] == ["lds.json", "bootstrap.json"]
    assert write(tmp_path, empty) == []
    added = write(tmp_path, full)
    assert added == ["eds/any-replica.json", "eds/demo.digits.json", "cds.json", "rds.json"]
    assert write(tmp_path, empty) == ["eds/any-replica.json", "rds.json", "cds.json", "eds/demo.digits.json"]


def test_a_write_that_is_interrupted_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, render(gateway(tmp_path), Routes()))
    before = (tmp_path / "rds.json").read_bytes()

    def broken(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path, {"rds.json": b"{}"})
    assert (tmp_path / "rds.json").read_bytes() == before
