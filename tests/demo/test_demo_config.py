"""What a demo may be set up to be, and where its password is."""

from __future__ import annotations

import socket
import stat

import pytest

from workbench.demo.configs import DemoConfig, check_password, make_password, read_password, write_password
from workbench.demo.serve import addresses_of, open_listener
from workbench.errors import RunProblem, UsageError
from workbench.runs.kinds import get_kind, parse_config
from workbench.settings import Settings


def config(**changes: object) -> DemoConfig:
    return DemoConfig.model_validate({"variants": ["a", "b"], **changes})


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"variants": ["a"]}, "variants"),
        ({"variants": ["a", "a"]}, "two different"),
        ({"variants": list("abcde")}, "variants"),
        ({"modes": []}, "modes"),
        ({"modes": ["race"]}, "modes"),
        ({"title": "  "}, "title"),
        ({"bind": "example.org"}, "bind"),
        ({"port": 70_000}, "port"),
        ({"max_prompt_chars": 3, "examples": ["four"]}, "example"),
        ({"password": "secret123"}, "password"),
    ],
)
def test_a_demo_that_cannot_be_is_refused_with_the_field(changes: dict[str, object], place: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse_config("demo", {"variants": ["a", "b"], **changes})
    assert place in refusal.value.sentence()


def test_loopback_needs_no_password_and_everything_else_does() -> None:
    assert not config().beyond_loopback and not config(bind="localhost").beyond_loopback
    assert not config(bind="[::1]").beyond_loopback
    assert config(bind="0.0.0.0").beyond_loopback and config(bind="192.168.1.4").beyond_loopback
    assert config(bind="::").beyond_loopback


def test_a_seed_is_drawn_and_told_where_the_config_has_none() -> None:
    assert config(seed=7).sampling().seed == 7
    drawn = {config().sampling().seed for _ in range(5)}
    assert None not in drawn and len(drawn) > 1


def test_the_password_is_in_a_file_only_its_owner_reads(settings: Settings) -> None:
    assert read_password(settings, "run_x") is None
    path = write_password(settings, "run_x", "correct horse")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and path.parent.name == "run_x"
    assert read_password(settings, "run_x") == "correct horse"


def test_made_passwords_are_long_and_differ() -> None:
    made = {make_password() for _ in range(50)}
    assert len(made) == 50 and all(len(each) == 19 and check_password(each) for each in made)


def test_a_short_password_is_refused() -> None:
    with pytest.raises(UsageError, match="7 characters"):
        check_password("1234567")


def test_a_port_in_use_and_a_strange_address_are_told() -> None:
    with open_listener("127.0.0.1", 0) as taken:
        with pytest.raises(RunProblem, match="the port is in use"):
            open_listener("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(RunProblem, match="does not have the address"):
        open_listener("203.0.113.7", 0)


def test_the_address_to_send_is_one_of_this_machine() -> None:
    assert addresses_of("127.0.0.1", 80) == ["http://127.0.0.1:80"]
    assert addresses_of("::1", 80) == ["http://[::1]:80"]
    found = addresses_of("0.0.0.0", 80)
    assert found and "0.0.0.0" not in str(found)
    host = found[0].removeprefix("http://").removesuffix(":80")
    with socket.socket() as probe:
        probe.bind((host, 0))


def test_the_kind_is_a_service_and_its_config_needs_no_gradio() -> None:
    assert get_kind("demo").slot == "service" and get_kind("demo").load_config() is DemoConfig
