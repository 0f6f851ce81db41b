"""Owns which calls need no script: plain inferences by callers whose permission a table of prefixes can tell.

A call is spelled as what its token says and then the model that it names, `- - users/ada ["demo.digits"]`: what auth
has signed comes first, so that nothing that a caller writes can be taken for it. One look into a table of prefixes then
answers for the organisation (`["`), a project (`["demo.`) and a deployment (`["demo.digits"]`). Whatever is not found
here (another method, a header, a limited token, a revocation, a role on a model) is decided by the script.
"""

import json
import re
from collections.abc import Collection, Iterable
from typing import Any, Final

from services.inference.envoy.access import CallRules

Json = dict[str, Any]

CALL: Final = "lepton.call"
MODEL: Final = "lepton.model"
TOKEN: Final = "lepton.token"
SESSION: Final = "lepton.session"
_TYPE: Final = "type.googleapis.com/"
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./@:+-]+")
_MAX_EXCEPTIONS: Final = 500
"""More of them are looked up by the script, for every call."""


def spelling() -> Json:
    """The settings of the filter that spells calls; it has the route looked up anew, by the model."""
    claim = "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:claims:{})%"
    texts = {
        MODEL: "%DYNAMIC_METADATA(envoy.filters.http.grpc_field_extraction:model_name)%",
        # What is spelled already is not written as JSON once more.
        CALL: " ".join(
            [*(claim.format(name) for name in ("permissions", "within", "sub")), f"%FILTER_STATE({MODEL}:PLAIN)%"]
        ),
        TOKEN: claim.format("jti"),
        SESSION: claim.format("sid"),
    }
    values = [
        {
            "object_key": key,
            "factory_key": "envoy.string",
            "format_string": {"text_format_source": {"inline_string": text}},
        }
        for key, text in texts.items()
    ]
    return {"on_request_headers": values, "clear_route_cache": True}


def spelled(model: str) -> str:
    """A model's name as the filter that reads it out of the message tells it."""
    return json.dumps([model])


def fast_path(rules: CallRules, limited: Collection[str] = ()) -> Json:
    """The matcher that skips the script; not for `limited` models, whose calls are counted by what the script sets."""
    prefixes = _prefixes(rules)
    exceptions = {TOKEN: rules.revoked_tokens, SESSION: rules.revoked_sessions, MODEL: [*map(spelled, limited)]}
    if not prefixes or sum(map(len, exceptions.values())) > _MAX_EXCEPTIONS:
        return _NOBODY
    permitted = {
        "matcher_tree": {
            "input": filter_state(CALL),
            "prefix_match_map": {"map": {prefix: {"action": _SKIP} for prefix in prefixes}},
        }
    }
    conditions = [
        _is(_request_header(":path"), {"exact": "/inference.GRPCInferenceService/ModelInfer"}),
        _not(_is(_request_header("lepton-model"), _ANYTHING)),
        _not(_is(_request_header("lepton-revision"), _ANYTHING)),
    ]
    for key, texts in exceptions.items():
        if texts:
            conditions.append(_not(_is(filter_state(key), _regex("|".join(map(re.escape, sorted(texts)))))))
    matchers = [{"predicate": {"and_matcher": {"predicate": conditions}}, "on_match": {"matcher": permitted}}]
    return {"matcher_list": {"matchers": matchers}}


def filter_state(key: str) -> Json:
    """What the call was given under a key, as the input of a matcher."""
    kind = "envoy.extensions.matching.common_inputs.network.v3.FilterStateInput"
    return {"name": key, "typed_config": {"@type": _TYPE + kind, "key": key}}


def _prefixes(rules: CallRules) -> list[str]:
    return sorted(
        f"- - {principal} {scope}"
        for principal, scopes in rules.grants.items()
        if _PLAIN.fullmatch(principal) and principal not in rules.revoked_principals
        for scope in _scopes(scopes)
    )


def _scopes(scopes: Iterable[str]) -> Iterable[str]:
    for scope in scopes:
        if scope == "*":
            yield '["'
        elif "/" not in scope:
            yield spelled(scope) if "." in scope else f'["{scope}.'


_SKIP: Json = {
    "name": "skip",
    "typed_config": {"@type": _TYPE + "envoy.extensions.filters.common.matcher.action.v3.SkipFilter"},
}


def _regex(pattern: str) -> Json:
    return {"safe_regex": {"google_re2": {}, "regex": pattern}}


_ANYTHING: Json = _regex("(?s).*")


def _is(what: Json, value: Json) -> Json:
    return {"single_predicate": {"input": what, "value_match": value}}


def _not(predicate: Json) -> Json:
    return {"not_matcher": predicate}


def _request_header(name: str) -> Json:
    kind = "envoy.type.matcher.v3.HttpRequestHeaderMatchInput"
    return {"name": name, "typed_config": {"@type": _TYPE + kind, "header_name": name}}


_NOBODY: Final[Json] = {
    "matcher_list": {
        "matchers": [{"predicate": _is(filter_state(CALL), {"exact": "-"}), "on_match": {"action": _SKIP}}]
    }
}
"""Runs the script for every call."""
