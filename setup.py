"""Builds what pyproject.toml cannot say: the gRPC stubs, the native core and the Cython border.

The native core is CMakeLists.txt's; here its static libraries are built (preset release) and the
Cython modules of blockd/native linked against them. Environment:

BLOCKD_BUILD_DIR  where CMake builds (default build/release, which `make` shares)
BLOCKD_SANITIZE   sanitizers for core and border alike, for example "address,undefined"; such
                  modules load only into a Python that has the sanitizer's library preloaded
"""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
SANITIZE = os.environ.get("BLOCKD_SANITIZE", "")
BUILD = Path(
    os.environ.get("BLOCKD_BUILD_DIR", ROOT / "build" / ("release" if not SANITIZE else "border"))
)

# In link order: each needs those to its right.
ROOMS = ["border", "nbd", "engine", "peer", "store", "format", "io", "base"]


def load(path: Path):
    """A module by its path: the generators stand alone, blockd itself is not importable yet."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def generate() -> None:
    """Write the error table and the gRPC stubs; packages are collected only after that."""
    load(ROOT / "blockd" / "model" / "generate.py").main()
    load(ROOT / "blockd" / "rpc" / "generate.py").generate()


class BuildNative(build_ext):
    """Builds the native core with CMake, then links the extensions against it."""

    def run(self) -> None:
        for tool in ("cmake", "ninja", "pkg-config"):
            if shutil.which(tool) is None:
                raise SystemExit(f"{tool} is missing: apt install cmake ninja-build pkg-config")
        configure = ["cmake", "--preset", "release", "-B", str(BUILD)]
        subprocess.run([*configure, f"-DBLOCKD_SANITIZE={SANITIZE}"], cwd=ROOT, check=True)
        subprocess.run(["cmake", "--build", str(BUILD), "--target", "blockd_border"], check=True)
        for extension in self.extensions:
            self.link_core(extension)
        super().run()

    @staticmethod
    def link_core(extension: Extension) -> None:
        """Link against the core's libraries, and again whenever one of them has changed."""
        libraries = [BUILD / f"libblockd_{room}.a" for room in ROOMS]
        present = [str(path) for path in libraries if path.exists()]
        extension.extra_objects = present
        extension.depends = present
        flags = subprocess.run(
            ["pkg-config", "--libs", "liburing"], check=True, capture_output=True, text=True
        ).stdout
        extension.extra_link_args += flags.split()


def extension(name: str) -> Extension:
    """One Cython module of the border."""
    sanitize = [f"-fsanitize={SANITIZE}"] if SANITIZE else []
    return Extension(
        f"blockd.native.{name}",
        [f"blockd/native/{name}.pyx"],
        include_dirs=["cext", "cext/include"],
        language="c++",
        extra_compile_args=["-std=c++20", "-O2", "-g", "-fno-omit-frame-pointer", *sanitize],
        extra_link_args=["-pthread", *sanitize],
    )


generate()
setup(
    ext_modules=cythonize(
        [extension("checksum"), extension("core")],
        build_dir="build/cython",
        compiler_directives={
            "language_level": 3,
            "binding": True,
            "embedsignature": True,
            "freethreading_compatible": False,
        },
    ),
    cmdclass={"build_ext": BuildNative},
)
