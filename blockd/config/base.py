"""How settings are read: flags win over BLOCKD_* variables, these over the TOML file, that over
defaults.

Whatever is wrong comes out as one InvalidArgument whose text names the setting, where it was set
and what is expected; a setting that nobody knows is an error too, so that a typing slip is never a
default.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from blockd.model.errors import BlockdError, InvalidArgument
from blockd.model.units import parse_size

ENVIRONMENT_PREFIX = "BLOCKD_"


def _size(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_size(value)
    except BlockdError as error:
        raise ValueError(str(error)) from error


# A number of bytes, also as "4GiB".
Size = Annotated[int, BeforeValidator(_size)]

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*$")


def _duration(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = _DURATION.match(value)
    if match is None:
        raise ValueError(f"not a duration: {value!r} (as in 90s, 12h, 7d)")
    return float(match[1]) * _SECONDS[match[2]]


# Seconds, also as "7d"; never negative.
Duration = Annotated[float, BeforeValidator(_duration), Field(ge=0, allow_inf_nan=False)]


class Settings(BaseModel):
    """The base of each daemon's settings; immutable once loaded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def load(
        cls,
        *,
        file: Path | None = None,
        flags: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """Merge the sources and check the result.

        flags: those given on the command line; a value None was not given.
        environ: os.environ when None. Variables that name no setting of this class are others'.
        Raises InvalidArgument: the file cannot be read; a setting is missing, unknown or malformed.
        """
        values = read_toml(file) if file is not None else {}
        origins = dict.fromkeys(values, str(file))
        for name, text in cls._environment(os.environ if environ is None else environ).items():
            values[name] = text
            origins[name] = ENVIRONMENT_PREFIX + name.upper()
        for name, value in (flags or {}).items():
            if value is not None:
                values[name] = value
                origins[name] = "--" + name.replace("_", "-")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InvalidArgument(describe(error, origins)) from error

    @classmethod
    def _environment(cls, environ: Mapping[str, str]) -> dict[str, object]:
        """The BLOCKD_* variables that name a setting; lists are separated by commas."""
        found: dict[str, object] = {}
        for name, field in cls.model_fields.items():
            text = environ.get(ENVIRONMENT_PREFIX + name.upper())
            if text is None:
                continue
            is_list = get_origin(field.annotation) in (tuple, list)
            found[name] = split_list(text) if is_list else text
        return found


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises InvalidArgument with the line that is wrong."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"{path}: {error}") from error


def split_list(text: str) -> list[str]:
    """ "a, b" -> ["a", "b"]."""
    return [part.strip() for part in text.split(",") if part.strip()]


def describe(error: ValidationError, origins: Mapping[str, str]) -> str:
    """Everything that is wrong in one line: "listen: not HOST:PORT: 'x' (from --listen)"."""
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        top = str(problem["loc"][0]) if problem["loc"] else ""
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing":
            text = f"is required (--{name.replace('_', '-')})"
        elif problem["type"] == "extra_forbidden":
            text = "is no setting"
        line = f"{name}: {text}" if name else text
        lines.append(f"{line} (from {origins[top]})" if top in origins else line)
    return "; ".join(lines)
