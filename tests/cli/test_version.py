"""Both programs say which version they are, without a cluster."""

from importlib.metadata import version

import pytest

from blockd.cli import blockctl, blockd


@pytest.mark.parametrize(("program", "run"), [("blockd", blockd.run), ("blockctl", blockctl.run)])
def test_version_is_the_packages(program, run, capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"{program} {version('blockd')}\n"
