"""Settings of the host daemon: safe by default, clear when wrong."""

from pathlib import Path

import pytest

from blockd.config.host import HostSettings
from blockd.model.errors import InvalidArgument

BASE: dict[str, object] = {
    "name": "paris-1",
    "site": "paris",
    "data_dir": "/var/lib/blockd",
    "stores": ["/dev/x"],
    "meta": ["127.0.0.1:7400"],
}


def load(**changes: object) -> HostSettings:
    return HostSettings.load(flags={**BASE, **changes}, environ={})


def test_defaults_stay_on_the_machine() -> None:
    settings = load()
    assert settings.nbd_socket == Path("/run/blockd/paris-1/nbd.sock")
    assert settings.advertised("127.0.0.1:7420") == "127.0.0.1:7420"


@pytest.mark.parametrize("name", ["listen", "peer_listen", "nbd_tcp", "metrics_listen"])
def test_an_address_that_leaves_the_machine_needs_allow_plaintext(name: str) -> None:
    with pytest.raises(InvalidArgument, match=f"{name}: 10.0.0.1 leaves this machine"):
        load(**{name: "10.0.0.1:7000"})
    assert load(**{name: "10.0.0.1:7000"}, allow_plaintext=True)


def test_every_address_needs_one_to_advertise() -> None:
    with pytest.raises(InvalidArgument, match="set advertise"):
        load(listen="0.0.0.0:7420", allow_plaintext=True)
    settings = load(listen="0.0.0.0:7420", allow_plaintext=True, advertise="10.0.0.1")
    assert settings.advertised("0.0.0.0:7420") == "10.0.0.1:7420"


def test_empty_turns_a_listener_off() -> None:
    settings = load(nbd_tcp="", metrics_listen="")
    assert settings.nbd_tcp is None
    assert settings.metrics_listen is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": "Paris 1"}, "not a name"),
        ({"stores": []}, "stores"),
        ({"stores": ["/a", "/a"]}, "a path occurs twice"),
        ({"meta": ["nowhere"]}, "not HOST:PORT"),
        ({"nbd_unix": "/" + "x" * 120}, "longer than 107 bytes"),
        ({"store_warning": 95}, "store_warning: 95 is not below store_critical, 95"),
        ({"store_critical": 101}, "store_critical"),
        ({"log_level": "loud"}, "not a level"),
        ({"cluster_id": "x"}, "cluster_id"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, object], expected: str) -> None:
    with pytest.raises(InvalidArgument, match=expected):
        load(**change)


def test_rebuilds_have_a_limit_if_one_is_set() -> None:
    assert load().rebuild_rate == 0
    assert load(rebuild_rate="50MiB").rebuild_rate == 50 << 20
    with pytest.raises(InvalidArgument, match="rebuild_rate"):
        load(rebuild_rate="1KiB")


def test_flattening_has_a_rate() -> None:
    assert load().flatten_rate == 100 << 20
    assert load(flatten_rate="10MiB").flatten_rate == 10 << 20
    with pytest.raises(InvalidArgument, match="flatten_rate"):
        load(flatten_rate="1KiB")
