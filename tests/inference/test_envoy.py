"""The gateway's configuration: a pure function of the routes, written so that no reader ever sees half of it."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.inference.envoy import (
    CallRules,
    Endpoint,
    Gateway,
    Route,
    RouteLimits,
    Routes,
    Shadow,
    Target,
    TokenRules,
    render,
    write,
)
from services.inference.gateway_identity import collector_of

A, B = Endpoint.parse("127.0.0.1:9001"), Endpoint.parse("127.0.0.1:9002")
DIGITS = Route(model="demo.digits", targets=(Target(revision=1, endpoints=(A, B)),))


def gateway(directory: Path, **settings: Any) -> Gateway:
    tokens = TokenRules(issuer="lepton", audience="lepton", jwks='{"keys": []}')
    return Gateway(
        directory=directory, tokens=tokens, certificate=directory / "c.pem", key=directory / "k.pem", **settings
    )


def document(files: dict[str, bytes], path: str) -> Any:
    return json.loads(files[path])["resources"]


def test_equal_routes_render_to_equal_bytes(tmp_path: Path) -> None:
    other = Route(model="demo.faces", targets=(Target(revision=1, endpoints=(A,)),))
    one = render(gateway(tmp_path), Routes(routes=(DIGITS, other)))
    assert one == render(gateway(tmp_path), Routes(routes=(other, DIGITS)))


def test_an_empty_route_table_is_complete(tmp_path: Path) -> None:
    files = render(gateway(tmp_path), Routes())
    assert [cluster["name"] for cluster in document(files, "cds.json")] == ["any-replica", "open-streams"]
    assert document(files, "eds/any-replica.json")[0]["endpoints"] == [{"lb_endpoints": [], "priority": 0}]


def test_every_model_has_a_cluster_its_endpoints_and_two_routes(tmp_path: Path) -> None:
    files = render(gateway(tmp_path), Routes(routes=(DIGITS,)))
    assert [cluster["name"] for cluster in document(files, "cds.json")] == [
        "any-replica",
        "demo.digits@r1",
        "open-streams",
    ]
    lb_endpoints = document(files, "eds/demo.digits@r1.json")[0]["endpoints"][0]["lb_endpoints"]
    assert [one["endpoint"]["address"]["socket_address"]["port_value"] for one in lb_endpoints] == [9001, 9002]
    (host,) = document(files, "rds.json")[0]["virtual_hosts"]
    found = host["matcher"]["matcher_tree"]["exact_match_map"]["map"]
    assert sorted(found) == ["*", "demo.digits", "demo.digits/stream"]


def test_a_replica_that_comes_or_goes_changes_only_endpoints(tmp_path: Path) -> None:
    before = render(gateway(tmp_path), Routes(routes=(DIGITS,)))
    after = render(
        gateway(tmp_path), Routes(routes=(Route(model="demo.digits", targets=(Target(revision=1, endpoints=(A,)),)),))
    )
    changed = {path for path in before if before[path] != after[path]}
    assert changed == {"eds/demo.digits@r1.json", "eds/any-replica.json"}


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
    ("host", "kind", "sni"), [("127.0.0.1", "IP_ADDRESS", None), ("otel.acme", "DNS", "otel.acme")]
)
def test_spans_go_over_tls_to_who_proves_the_collectors_host(tmp_path: Path, host: str, kind: str, sni: str) -> None:
    over_tls = collector_of(f"https://{host}:4317")
    (cluster,) = bootstrap(gateway(tmp_path, collector=over_tls, roots=tmp_path / "roots.pem"))
    context = cluster["transport_socket"]["typed_config"]
    assert context.get("sni") == sni
    validation = context["common_tls_context"]["combined_validation_context"]
    expected = {"match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": host}}]}
    assert validation["default_validation_context"] == expected
    roots = validation["validation_context_sds_secret_config"]["sds_config"]["path_config_source"]["path"]
    assert roots == str(tmp_path / "sds_roots.json"), "which follows the mesh's"
    own = tmp_path / "own.pem"
    (cluster,) = bootstrap(gateway(tmp_path, collector=over_tls, collector_roots=own))
    trusted = cluster["transport_socket"]["typed_config"]["common_tls_context"]["validation_context"]
    assert trusted == {**expected, "trusted_ca": {"filename": str(own)}}
    (cluster,) = bootstrap(gateway(tmp_path, collector=collector_of(f"http://{host}:4317")))
    assert "transport_socket" not in cluster, "the negative control"
    assert collector_of("") is None


def bootstrap(configured: Gateway) -> list[dict[str, Any]]:
    """The clusters that Envoy starts with."""
    found = json.loads(render(configured, Routes())["bootstrap.json"])
    clusters: list[dict[str, Any]] = found["static_resources"]["clusters"]
    return clusters


@pytest.mark.parametrize(
    "model", ["digits", "demo.", ".digits", "demo.digits.v1", "Demo.digits", "demo.di/gits", "../x.y"]
)
def test_a_model_name_that_names_no_project_is_refused(model: str) -> None:
    with pytest.raises(ValueError, match=r"<project>\.<deployment id>"):
        Route(model=model, targets=(Target(revision=1, endpoints=()),))


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
    assert added == ["eds/any-replica.json", "eds/demo.digits@r1.json", "cds.json", "rds.json"]
    assert write(tmp_path, empty) == ["eds/any-replica.json", "rds.json", "cds.json", "eds/demo.digits@r1.json"]


def test_a_write_that_is_interrupted_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, render(gateway(tmp_path), Routes()))
    before = (tmp_path / "rds.json").read_bytes()

    def broken(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path, {"rds.json": b"{}"})
    assert (tmp_path / "rds.json").read_bytes() == before


def test_a_route_that_contradicts_itself_is_refused() -> None:
    there = (Endpoint(host="127.0.0.1", port=1),)
    one = Target(revision=1, endpoints=there)
    with pytest.raises(ValueError, match="two targets of one revision"):
        Route(model="demo.digits", targets=(one, one))
    with pytest.raises(ValueError, match="add revision 2"):
        Route(model="demo.digits", targets=(one,), shadow=Shadow(revision=2, share=0.5))
    with pytest.raises(ValueError, match="0 to 1"):
        Shadow(revision=1, share=2)
    with pytest.raises(ValueError, match="weight of revision 1"):
        Target(revision=1, endpoints=there, weight=-1)
    with pytest.raises(ValueError, match="from 1"):
        Target(revision=0, endpoints=there)
    with pytest.raises(ValueError, match="printable ASCII"):
        Target(revision=1, endpoints=there, lineage=(("lepton-engine", "a\nb"),))


def clusters_of(tmp_path: Path, route: Route) -> dict[str, Any]:
    files = render(gateway(tmp_path), Routes(routes=(route,)))
    return {cluster["name"]: cluster for cluster in document(files, "cds.json")}


def action_of(tmp_path: Path, route: Route, name: str) -> Any:
    files = render(gateway(tmp_path), Routes(routes=(route,)))
    (host,) = document(files, "rds.json")[0]["virtual_hosts"]
    found = host["matcher"]["matcher_tree"]["exact_match_map"]["map"][name]
    return found["matcher"]["on_no_match"]["action"]["typed_config"]["route"]


def targets(*weights: int) -> tuple[Target, ...]:
    return tuple(Target(revision=at, endpoints=(A,), weight=weight) for at, weight in enumerate(weights, 1))


def test_weights_are_those_of_the_revisions_that_get_calls(tmp_path: Path) -> None:
    route = Route(model="demo.digits", targets=targets(80, 20, 0))
    weighted = action_of(tmp_path, route, "demo.digits")["weighted_clusters"]["clusters"]
    assert weighted == [{"name": "demo.digits@r1", "weight": 80}, {"name": "demo.digits@r2", "weight": 20}]


def test_only_unary_calls_are_mirrored(tmp_path: Path) -> None:
    route = Route(model="demo.digits", targets=targets(100, 0), shadow=Shadow(revision=2, share=0.25))
    (mirror,) = action_of(tmp_path, route, "demo.digits")["request_mirror_policies"]
    assert mirror["cluster"] == "demo.digits@r2"
    assert mirror["runtime_fraction"]["default_value"] == {"numerator": 250_000, "denominator": "MILLION"}
    assert "request_mirror_policies" not in action_of(tmp_path, route, "demo.digits/stream")


def test_a_change_of_weights_changes_only_routes(tmp_path: Path) -> None:
    one = render(gateway(tmp_path), Routes(routes=(Route(model="demo.digits", targets=targets(90, 10)),)))
    two = render(gateway(tmp_path), Routes(routes=(Route(model="demo.digits", targets=targets(50, 50)),)))
    assert {path for path in one if one[path] != two[path]} == {"rds.json"}


def test_a_change_of_limits_leaves_the_listener_alone(tmp_path: Path) -> None:
    limited = Route(model="demo.digits", targets=targets(100), limits=RouteLimits(requests_per_s=5, max_in_flight=7))
    one = render(gateway(tmp_path), Routes(routes=(Route(model="demo.digits", targets=targets(100)),)))
    two = render(gateway(tmp_path), Routes(routes=(limited,)))
    assert {path for path in one if one[path] != two[path]} == {"cds.json", "ecds/limits.json"}
    threshold = clusters_of(tmp_path, limited)["demo.digits@r1"]["circuit_breakers"]["thresholds"][0]
    assert (threshold["max_requests"], threshold["max_pending_requests"]) == (7, 7)


@pytest.mark.parametrize(
    ("rate", "burst_s", "bucket"),
    [
        (0.1, 1, {"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "10s"}),
        (10, 1, {"max_tokens": 10, "tokens_per_fill": 1, "fill_interval": "0.1s"}),
        (1000, 2, {"max_tokens": 2000, "tokens_per_fill": 50, "fill_interval": "0.05s"}),
        (3, 1, {"max_tokens": 3, "tokens_per_fill": 1, "fill_interval": "0.333s"}),
    ],
)
def test_a_rate_is_whole_tokens_at_whole_milliseconds(tmp_path: Path, rate: float, burst_s: float, bucket: Any) -> None:
    limits = RouteLimits(requests_per_s=rate, burst_s=burst_s)
    route = Route(model="demo.digits", targets=targets(100), limits=limits)
    files = render(gateway(tmp_path), Routes(routes=(route,)))
    descriptors = document(files, "ecds/limits.json")[0]["typed_config"]["descriptors"]
    assert [each["token_bucket"] for each in descriptors] == [bucket, bucket]


def test_a_policy_that_changes_changes_only_its_filter(tmp_path: Path) -> None:
    tokens = TokenRules(issuer="lepton", audience="lepton", jwks='{"keys": []}')
    calls = CallRules(grants={"users/ada": frozenset({"demo"})})
    other = replace(gateway(tmp_path), tokens=replace(tokens, calls=calls))
    one, two = render(gateway(tmp_path), Routes()), render(other, Routes())
    assert {path for path in one if one[path] != two[path]} == {"ecds/policy.json"}
