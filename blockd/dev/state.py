"""cluster.json: what runs where. Written by `blockd dev`, read by blockctl and tests.

    cluster_id  UUID text, "" until the metadata service has answered
    meta        endpoints of the metadata service
    plan        what was asked for (layout.Plan)
    processes   name, role, site, pid, start_time, argv, log, endpoints{}; pid 0: not started

The file is replaced in one step. A lock on DIR/lock makes changes one at a time; readers need none.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from blockd.dev.layout import Plan, layout, meta_endpoints
from blockd.dev.process import Running, children_named
from blockd.model.errors import Busy, InvalidArgument, NotFound

FILE = "cluster.json"
LOCK = "lock"


@dataclass
class Process:
    """One process and where it stands; `running` None: never started, or known to be gone."""

    name: str
    role: str
    site: str
    argv: list[str]
    log: str
    endpoints: dict[str, str]
    pid: int = 0
    start_time: int = 0

    @property
    def running(self) -> Running | None:
        return Running(self.pid, self.start_time) if self.pid else None

    def state(self) -> str:
        """ "running", "stopped" or "dead"."""
        running = self.running
        return running.state() if running is not None else "dead"

    def found(self, running: Running | None) -> None:
        """Take up which process this is now."""
        self.pid = running.pid if running is not None else 0
        self.start_time = running.start_time if running is not None else 0


@dataclass
class Cluster:
    """The state of the cluster in one directory."""

    directory: Path
    plan: Plan
    processes: list[Process] = field(default_factory=list)
    cluster_id: str = ""

    @classmethod
    def create(cls, directory: Path, plan: Plan) -> "Cluster":
        """A cluster of which nothing runs yet."""
        processes = [
            Process(
                name=spec.name,
                role=spec.role,
                site=spec.site,
                argv=list(spec.argv),
                # etcd writes to the log of the process that runs it
                log=str(directory / "logs" / f"{spec.name.replace('etcd-', 'meta-')}.log"),
                endpoints=dict(spec.endpoints),
            )
            for spec in layout(plan, directory)
        ]
        return cls(directory, plan, processes)

    @classmethod
    def load(cls, directory: Path) -> "Cluster":
        """Raises NotFound: no cluster there; InvalidArgument: the file is damaged."""
        path = directory / FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            plan = plan_of(values["plan"])
            processes = [Process(**process) for process in values["processes"]]
            cluster = cls(directory, plan, processes, values["cluster_id"])
        except FileNotFoundError as error:
            missing = NotFound(f"no development cluster in {directory}")
            missing.add_note("start one with `blockd dev up`, or name its directory with --dir")
            raise missing from error
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidArgument(f"{path} is damaged: {error}") from error
        cluster.find_etcd()
        return cluster

    def save(self) -> None:
        """Replace cluster.json."""
        values: dict[str, Any] = {
            "cluster_id": self.cluster_id,
            "meta": meta_endpoints(self.plan),
            "plan": asdict(self.plan),
            "processes": [asdict(process) for process in self.processes],
        }
        scratch = self.directory / f"{FILE}.new"
        scratch.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        scratch.replace(self.directory / FILE)

    def find_etcd(self) -> None:
        """etcd members are children of their meta, which starts them anew when they die."""
        for process in self.of_role("etcd"):
            meta = self.get(f"meta-{process.site}").running
            members = children_named(meta.pid, "etcd") if meta and meta.state() != "dead" else []
            if members:
                process.found(members[0])

    def get(self, name: str) -> Process:
        """Raises NotFound, which names those there are."""
        for process in self.processes:
            if process.name == name:
                return process
        names = ", ".join(process.name for process in self.processes)
        raise NotFound(f"no process {name!r} in this cluster; there are {names}")

    def of_role(self, role: str) -> list[Process]:
        """The processes of one role, in order."""
        return [process for process in self.processes if process.role == role]

    def alive(self) -> list[Process]:
        """Those that have not ended."""
        return [process for process in self.processes if process.state() != "dead"]


def plan_of(values: dict[str, Any]) -> Plan:
    """As asdict() made it, and JSON kept it."""
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return Plan(**{**values, **lists})


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One change at a time. Raises Busy: another command is at work; NotFound: no directory."""
    try:
        handle = os.open(directory / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise NotFound(f"cannot use {directory}: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise Busy(f"another `blockd dev` command works on {directory}; try again") from error
    try:
        yield
    finally:
        os.close(handle)
