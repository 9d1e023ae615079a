"""Writes blockd/rpc/gen from proto/blockd/v1: `python blockd/rpc/generate.py`.

The protobuf package is blockd.v1, and protoc's Python would import it as such, which is not where
this package keeps it: so the modules are put side by side in blockd/rpc/gen and their imports of
each other rewritten. The names inside the messages' descriptors (blockd/v1/meta.proto) stay as they
are. Stubs for type checkers come from mypy-protobuf. Stands alone: the build runs it before blockd
is installed. Writes only what has changed, each file at once, so a running test never sees half.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto"
GEN = Path(__file__).resolve().parent / "gen"

INIT = (
    '"""Generated from proto/blockd/v1 by blockd/rpc/generate.py. Not under version control."""\n'
)


def find_plugin(name: str) -> str:
    """The path of a protoc plugin: beside this Python, else on PATH. Raises FileNotFoundError."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is missing: pip install grpcio-tools mypy-protobuf")
    return found


def run_protoc(into: Path) -> None:
    """Run grpc_tools' protoc over every file of proto/blockd/v1."""
    sources = sorted(str(path) for path in (PROTO / "blockd" / "v1").glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}"]
    for plugin in ("mypy", "mypy_grpc"):
        command += [f"--plugin=protoc-gen-{plugin}={find_plugin(f'protoc-gen-{plugin}')}"]
        command += [f"--{plugin}_out=quiet:{into}"]
    command += [f"--python_out={into}", f"--grpc_python_out={into}", *sources]
    subprocess.run(command, check=True)


def write_if_changed(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step, unless it holds it already."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def generate(gen: Path = GEN) -> None:
    """Bring `gen` up to date and remove modules whose .proto is gone."""
    gen.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        run_protoc(Path(scratch))
        texts = {
            path.name: path.read_text(encoding="utf-8").replace(
                "from blockd.v1 import ", "from blockd.rpc.gen import "
            )
            for path in (Path(scratch) / "blockd" / "v1").iterdir()
        }
    texts["__init__.py"] = INIT
    for name, text in texts.items():
        write_if_changed(gen / name, text)
    for path in gen.glob("*_pb2*"):
        if path.name not in texts:
            path.unlink()


if __name__ == "__main__":
    generate()
