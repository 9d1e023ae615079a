"""Settings: precedence, lists, and errors that name what to mend."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from blockd.config.base import Duration, Settings, Size
from blockd.config.endpoints import is_loopback, is_wildcard, join_endpoint, split_endpoint
from blockd.model.errors import InvalidArgument


class Sample(Settings):
    name: str
    size: Size = 0
    peers: tuple[str, ...] = ()


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    file = write(tmp_path / "s.toml", 'name = "file"\nsize = "1GiB"\npeers = ["a"]\n')
    settings = Sample.load(
        file=file, environ={"BLOCKD_NAME": "env", "BLOCKD_SIZE": "2M"}, flags={"name": "flag"}
    )
    assert settings == Sample(name="flag", size=2 << 20, peers=("a",))


def test_environment_lists_are_separated_by_commas() -> None:
    settings = Sample.load(environ={"BLOCKD_NAME": "x", "BLOCKD_PEERS": "a, b,"})
    assert settings.peers == ("a", "b")


def test_other_variables_are_left_alone() -> None:
    assert Sample.load(environ={"BLOCKD_NAME": "x", "BLOCKD_DIR": "/d"}).name == "x"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("size = 1", "name: is required (--name)"),
        ('name = "x"\ncolour = 1', "colour: is no setting"),
        ('name = "x"\nsize = "ten"', "size: not a size: 'ten'"),
        ("name = ", "s.toml: Invalid value"),
    ],
)
def test_an_error_names_the_setting_and_its_origin(
    tmp_path: Path, text: str, expected: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Sample.load(file=write(tmp_path / "s.toml", text), environ={})
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"cannot read .*none\.toml: No such file"):
        Sample.load(file=tmp_path / "none.toml", environ={})


@pytest.mark.parametrize("text", ["127.0.0.1:7400", "[::1]:7400", "host:0"])
def test_endpoints_survive_a_round_trip(text: str) -> None:
    assert join_endpoint(*split_endpoint(text)) == text


@pytest.mark.parametrize("text", ["", "x", "x:", ":1", "x:70000", "::1:5", "x:-1", "x:1a", "x:²"])
def test_malformed_endpoints_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        split_endpoint(text)


def test_loopback_and_wildcard() -> None:
    assert is_loopback("127.3.2.1")
    assert is_loopback("::1")
    assert is_loopback("localhost")
    assert not is_loopback("10.0.0.1")
    assert not is_loopback("example.org")
    assert is_wildcard("0.0.0.0")
    assert is_wildcard("::")
    assert not is_wildcard("127.0.0.1")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0.0), ("90", 90.0), ("30s", 30.0), ("1.5h", 5400.0), ("7d", 604800.0), ("2m", 120.0)],
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert TypeAdapter(Duration).validate_python(text) == seconds


@pytest.mark.parametrize("value", ["", "x", "-1s", "1w", "1 2", -1, float("inf")])
def test_malformed_durations_are_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Duration).validate_python(value)
