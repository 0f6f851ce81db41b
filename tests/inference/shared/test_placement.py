"""Where shared models go: by measured memory, least recently used out first, never in circles."""

from dataclasses import replace
from random import Random

import pytest

from services.inference.shared.placement import Failure, Limits, Model, Place, Plan, Server, plan

MB = 1 << 20
NOW = 100_000.0
LIMITS = Limits(max_servers=3, min_age_s=60, unknown_bytes=100 * MB)


def server(name: str, capacity: int = 300) -> Server:
    return Server(endpoint=name, node=f"n-{name}", capacity_bytes=capacity * MB)


def model(
    id_: str, *places: str, used: float = -100.0, size: int = 100, age: float = 1000.0, **fields: object
) -> Model:
    return Model(
        id=id_,
        name=str(fields.pop("name", id_)),
        wanted=bool(fields.pop("wanted", True)),
        last_use_s=NOW + used,
        places=tuple(Place(endpoint=each, since_s=NOW - age) for each in places),
        memory_bytes=size * MB,
        **fields,  # type: ignore[arg-type]
    )


def planned(models: list[Model], *servers: Server, asked: int = 0) -> Plan:
    return plan(models, servers, asked or len(servers), NOW, LIMITS)


def places(made: Plan, id_: str) -> tuple[str, ...]:
    return made.models[id_].endpoints


def test_without_models_there_are_no_servers() -> None:
    assert planned([], server("a")) == Plan()


def test_the_first_model_asks_for_a_server() -> None:
    made = planned([model("m")])
    assert made.servers == 1
    assert made.waiting == {"m": "no shared server answers yet"}


def test_a_model_goes_where_most_is_free() -> None:
    made = planned([model("old", "a"), model("m")], server("a"), server("b"))
    assert places(made, "m") == ("b",)


def test_what_was_carried_out_gives_nothing_to_do() -> None:
    made = planned([model("m"), model("n")], server("a"))
    again = planned(list(made.models.values()), server("a"))
    assert not again.models
    assert not again.waiting


def test_the_least_recently_used_makes_room() -> None:
    old = [model("x", "a", used=-500), model("y", "a", used=-900), model("z", "a", used=-100)]
    made = planned([*old, model("m", used=0)], server("a"))
    assert places(made, "m") == ("a",)
    assert not made.models["y"].wanted
    assert places(made, "y") == ()
    assert set(made.models) == {"m", "y"}


def test_a_new_model_does_not_push_out_what_is_hot() -> None:
    hot = [model(each, "a", used=-10) for each in "xyz"]
    made = planned([*hot, model("new", used=-3600)], server("a"))
    assert not made.models
    assert "in use" in made.waiting["new"]
    assert made.servers == 2, "it gets a server instead"


def test_at_the_most_servers_it_waits() -> None:
    hot = [model(f"{at}{each}", at, used=-10) for at in "abc" for each in "xyz"]
    made = planned([*hot, model("new", used=-3600)], server("a"), server("b"), server("c"))
    assert made.servers == 3
    assert "new" in made.waiting


def test_nothing_turns_over_faster_than_the_minimum_age() -> None:
    young = [model(each, "a", used=-900, age=59) for each in "xyz"]
    assert not planned([*young, model("m", used=0)], server("a")).models
    old = [model(each, "a", used=-900, age=60) for each in "xyz"]
    assert planned([*old, model("m", used=0)], server("a")).models


def test_a_model_that_no_server_could_hold_says_so() -> None:
    made = planned([model("m", size=400)], server("a"))
    assert made.waiting == {"m": "it takes 400 MiB, a shared server has 300 MiB"}


def test_one_that_was_never_measured_counts_as_the_limits_say() -> None:
    made = planned(
        [model("x", "a", size=150, used=-10), model("y", "a", size=51, used=-10), model("m", size=0)], server("a")
    )
    assert "m" in made.waiting


def test_what_is_not_wanted_keeps_no_place() -> None:
    made = planned([model("m", "a", wanted=False)], server("a"))
    assert places(made, "m") == ()
    assert not made.waiting


def test_a_server_that_is_gone_keeps_nothing() -> None:
    made = planned([model("m", "gone")], server("a"))
    assert places(made, "m") == ("a",)


def test_a_model_leaves_the_server_where_it_failed() -> None:
    failed = model("m", "a", failures=(Failure(endpoint="a", at_s=NOW - 10),))
    assert places(planned([failed], server("a"), server("b")), "m") == ("b",)


@pytest.mark.parametrize(
    ("age_s", "used", "is_tried"), [(440, -10, False), (460, -10, True), (460, -3600, False), (901, -3600, True)]
)
def test_failures_are_bounded_and_forgotten_sooner_for_what_is_in_use(
    age_s: float, used: float, is_tried: bool
) -> None:
    failures = tuple(Failure(endpoint=f"gone{at}", at_s=NOW - age_s) for at in range(3))
    made = planned([model("m", used=used, failures=failures)], server("a"))
    assert ("m" in made.models) is is_tried
    assert ("m" in made.waiting) is not is_tried


def test_a_second_copy_comes_with_the_calls_and_never_pushes_anyone_out() -> None:
    busy = model("m", "a", used=0, calls_per_minute=2001.0)
    assert places(planned([busy], server("a"), server("b")), "m") == ("a", "b")
    full = [model(each, "b", used=-900) for each in "xyz"]
    assert not planned([busy, *full], server("a"), server("b")).models


def test_a_second_copy_is_the_first_to_make_room() -> None:
    copied = model("copied", "a", "b", used=-1, size=300)
    single = model("single", "a", used=-900, size=0)
    made = planned([copied, replace(single, places=()), model("m", used=0, size=200)], server("a"), server("b"))
    assert len(places(made, "copied")) == 1
    assert made.models["copied"].wanted
    assert places(made, "m")


def test_two_models_of_one_name_are_never_on_one_server() -> None:
    old, new = model("r1", "a", name="demo.digits"), model("r2", name="demo.digits")
    made = planned([old, new], server("a"))
    assert not made.models
    assert made.servers == 2
    assert places(planned([old, new], server("a"), server("b")), "r2") == ("b",)


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(10, 200))
def test_whatever_happens_the_rules_hold_at_length(seed: int) -> None:
    run(seed)


@pytest.mark.parametrize("seed", range(10))
def test_whatever_happens_the_rules_hold(seed: int) -> None:
    run(seed)


def run(seed: int) -> None:
    random = Random(seed)
    now, servers = NOW, [server(each, random.randint(200, 600)) for each in "ab"]
    models = {str(at): model(str(at), size=random.randint(50, 250), used=-3600, name=f"n{at % 7}") for at in range(9)}
    for _ in range(40):
        now += random.choice((1, 5, 30, 90))
        chosen = random.choice(sorted(models))
        match random.randrange(4):
            case 0:
                models[chosen] = replace(models[chosen], last_use_s=now, wanted=True)
            case 1:
                models[chosen] = replace(
                    models[chosen], failures=(*models[chosen].failures, Failure(endpoint="a", at_s=now))
                )
            case 2:
                servers = [
                    server(each, random.randint(300, 600)) for each in random.sample("abc", random.randint(1, 3))
                ]
            case _:
                models[chosen] = replace(models[chosen], calls_per_minute=random.choice((0.0, 5000.0)))
        before = dict(models)
        made = plan(list(models.values()), servers, len(servers), now, LIMITS)
        assert made == plan(list(reversed(models.values())), servers, len(servers), now, LIMITS), seed
        models.update(made.models)
        check(before, models, servers, now)
        again = plan(list(models.values()), servers, len(servers), now, LIMITS)
        assert not again.models, (seed, again)


def check(before: dict[str, Model], after: dict[str, Model], servers: list[Server], now: float) -> None:
    known = {each.endpoint for each in servers}
    for each in servers:
        there = [model for model in after.values() if each.endpoint in model.endpoints]
        fresh = [model for model in there if each.endpoint not in before[model.id].endpoints]
        if fresh:  # nothing is put where it does not fit
            assert sum(model.memory_bytes or LIMITS.unknown_bytes for model in there) <= each.capacity_bytes
        assert len({model.name for model in there}) == len(there)
    for id_, model in after.items():
        assert set(model.endpoints) <= known
        assert len(set(model.endpoints)) == len(model.endpoints)
        for place in before[id_].places:
            lost = place.endpoint not in model.endpoints and place.endpoint in known and before[id_].wanted
            failed = any(each.endpoint == place.endpoint for each in model.failures)
            if lost and not failed:
                assert now - place.since_s >= LIMITS.min_age_s
