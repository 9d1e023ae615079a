"""Who this host is, kept in its data directory across restarts.

identity.json holds the host's id, the cluster it belongs to once it has joined one, and the
incarnation, which grows with each start so that the metadata service can tell a restarted daemon
from the one before. The file is replaced in one step and flushed before the daemon uses what it
says. A lock on the directory, released by the kernel however the daemon ends, keeps a second daemon
off it.
"""

import fcntl
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self
from uuid import UUID

from blockd.model.errors import InvalidArgument, StoreDamaged, StoreForeign, StoreInUse
from blockd.model.ids import new_id, parse_id


@dataclass(frozen=True)
class Identity:
    """What identity.json says; cluster_id None: not yet part of a cluster."""

    host_id: UUID
    incarnation: int
    cluster_id: UUID | None = None


class DataDir:
    """The daemon's directory, locked while open."""

    def __init__(self, path: Path, lock: int, identity: Identity) -> None:
        self.path = path
        self.identity = identity
        self._lock = lock

    @classmethod
    def open(cls, path: Path) -> Self:
        """Create or open the directory and start the next incarnation.

        Raises InvalidArgument (cannot be used), StoreInUse (another daemon has it), StoreDamaged.
        """
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o750)
            lock = os.open(path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise InvalidArgument(f"cannot use data_dir {path}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise StoreInUse(f"another blockd host runs on data_dir {path}") from error
        try:
            before = cls._read(path / "identity.json")
            data_dir = cls(path, lock, replace(before, incarnation=before.incarnation + 1))
            data_dir._write()
        except BaseException:
            os.close(lock)
            raise
        return data_dir

    def join(self, cluster_id: UUID) -> None:
        """Remember the cluster, for good. Raises StoreForeign: the host belongs to another one."""
        known = self.identity.cluster_id
        if known is None:
            self.identity = replace(self.identity, cluster_id=cluster_id)
            self._write()
        elif known != cluster_id:
            raise StoreForeign(
                f"this host belongs to cluster {known}, the metadata service to {cluster_id}; "
                f"use its own metadata service or another data_dir than {self.path}"
            )

    def close(self) -> None:
        """Release the lock."""
        os.close(self._lock)

    @staticmethod
    def _read(path: Path) -> Identity:
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            cluster = values["cluster_id"]
            return Identity(
                host_id=parse_id(values["host_id"]),
                incarnation=int(values["incarnation"]),
                cluster_id=None if cluster is None else parse_id(cluster),
            )
        except FileNotFoundError:
            return Identity(host_id=new_id(), incarnation=0)
        except (ValueError, KeyError, TypeError, InvalidArgument) as error:
            raise StoreDamaged(f"{path} is damaged: {error}") from error

    def _write(self) -> None:
        identity = self.identity
        text = json.dumps(
            {
                "host_id": str(identity.host_id),
                "incarnation": identity.incarnation,
                "cluster_id": str(identity.cluster_id) if identity.cluster_id else None,
            }
        )
        replace_file(self.path / "identity.json", text)


def replace_file(path: Path, text: str) -> None:
    """Write the file in one step: after any crash it is wholly old or wholly new."""
    scratch = path.with_name(path.name + ".new")
    with scratch.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
