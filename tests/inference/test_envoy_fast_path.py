"""Which calls need no script, as it is told to Envoy; that they are decided alike is shown with a real Envoy."""

import json
import re
from typing import Any

import pytest

from services.inference.envoy.access import CallRules
from services.inference.envoy.fast_path import CALL, MODEL, SESSION, TOKEN, fast_path, spelled, spelling

GRANTS = {
    "users/root": frozenset({"*"}),
    "users/ada": frozenset({"demo"}),
    "users/eve": frozenset({"demo.digits", "projects/demo/models/cnn"}),
}


def prefixes(rules: CallRules, limited: tuple[str, ...] = ()) -> list[str]:
    """The calls that skip the script, by how their spelling begins."""
    (matcher,) = fast_path(rules, limited)["matcher_list"]["matchers"]
    if "matcher" not in matcher["on_match"]:
        return []
    return list(matcher["on_match"]["matcher"]["matcher_tree"]["prefix_match_map"]["map"])


def conditions(rules: CallRules, limited: tuple[str, ...] = ()) -> list[Any]:
    (matcher,) = fast_path(rules, limited)["matcher_list"]["matchers"]
    found: list[Any] = matcher["predicate"]["and_matcher"]["predicate"]
    return found


def test_the_organisation_a_project_and_a_deployment_are_prefixes_and_a_model_is_for_the_script() -> None:
    assert prefixes(CallRules(grants=GRANTS)) == [
        '- - users/ada ["demo.',
        '- - users/eve ["demo.digits"]',
        '- - users/root ["',
    ]
    assert spelled("demo.digits") == '["demo.digits"]'


def test_a_project_whose_name_begins_like_another_is_not_that_one() -> None:
    (prefix,) = prefixes(CallRules(grants={"users/ada": frozenset({"dem"})}))
    assert not f"- - users/ada {spelled('demo.digits')}".startswith(prefix)


@pytest.mark.parametrize("odd", ["users/a b", 'users/a ["demo.', "users/ü", ""])
def test_a_principal_that_could_be_misread_is_for_the_script(odd: str) -> None:
    assert prefixes(CallRules(grants={odd: frozenset({"demo"})})) == []


def test_a_principal_with_a_mark_is_for_the_script() -> None:
    assert len(prefixes(CallRules(grants=GRANTS, revoked_principals={"users/root": 1.0}))) == 2


def test_revoked_tokens_and_sessions_and_limited_models_are_for_the_script() -> None:
    rules = CallRules(grants=GRANTS, revoked_tokens=frozenset({"t.1", "t2"}), revoked_sessions=frozenset({"s"}))
    exceptions = {
        each["not_matcher"]["single_predicate"]["input"]["name"]: each["not_matcher"]["single_predicate"]["value_match"]
        for each in conditions(rules, ("demo.digits",))
        if "not_matcher" in each
    }
    pattern = {key: value["safe_regex"]["regex"] for key, value in exceptions.items()}
    assert re.fullmatch(pattern[TOKEN], "t.1")
    assert not re.fullmatch(pattern[TOKEN], "tx1")
    assert re.fullmatch(pattern[SESSION], "s")
    assert re.fullmatch(pattern[MODEL], '["demo.digits"]')
    assert {"lepton-model", "lepton-revision"} < set(pattern)


def test_with_very_many_marks_or_nobody_the_script_decides_about_every_call() -> None:
    many = frozenset(f"t{number}" for number in range(501))
    assert prefixes(CallRules(grants=GRANTS, revoked_tokens=many)) == []
    assert prefixes(CallRules()) == []


def test_what_a_caller_writes_stands_behind_what_auth_has_signed() -> None:
    texts = {
        value["object_key"]: value["format_string"]["text_format_source"]["inline_string"]
        for value in spelling()["on_request_headers"]
    }
    signed, _, written = texts[CALL].rpartition(" ")
    assert written == f"%FILTER_STATE({MODEL}:PLAIN)%"
    assert list(texts).index(MODEL) < list(texts).index(CALL)
    assert "grpc_field_extraction" in texts[MODEL]
    assert signed.count("jwt_authn:claims") == 3
    assert "REQ(" not in json.dumps(texts)
