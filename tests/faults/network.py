"""A network for a cluster in namespaces: one namespace a machine, a bridge between them, and cuts.

Every machine has one link, `eth0` inside and `b-NET-INDEX` at the bridge `blockd-NET`; the bridge
has the address 198.18.NET.254, from which tests reach everybody. A cut drops what one machine sends
to another by giving it a neighbour that nobody is: what it sends leaves, and reaches nobody, as
with a switch that has lost its way. So it needs no packet filter in the kernel, works one way, and
the sender gets no error.
"""

import contextlib
import errno
import socket
from collections.abc import Iterable
from pathlib import Path

from pyroute2 import IPRoute, NetNS, netns
from pyroute2.netlink.exceptions import NetlinkError

from blockd.config.endpoints import split_endpoint
from blockd.dev.layout import Plan, layout

NOBODY = "02:00:00:00:00:99"
PREFIX_LENGTH = 24
NUD_PERMANENT = 0x80
BURST_BYTES = 32 << 10
QUEUE_US = 400_000
TC_ROOT = 0xFFFFFFFF


class Network:
    """The network of the cluster that `plan` describes. Undone by close()."""

    def __init__(self, plan: Plan, machines: dict[str, str]) -> None:
        self.plan = plan
        self.addresses = machines
        self.bridge = f"blockd-{plan.net}"
        self._inside: dict[str, NetNS] = {}
        self._cuts: set[tuple[str, str]] = set()
        self._slow: set[str] = set()

    @classmethod
    def create(cls, plan: Plan) -> "Network | None":
        """None: a network of this number exists."""
        network = cls(plan, machines(plan))
        with IPRoute() as outside:
            try:
                outside.link("add", ifname=network.bridge, kind="bridge")
            except NetlinkError as error:
                if error.code == errno.EEXIST:
                    return None
                raise
            try:
                network._connect(outside)
            except BaseException:
                network.close()
                raise
        return network

    def _connect(self, outside: IPRoute) -> None:
        bridge = outside.link_lookup(ifname=self.bridge)[0]
        outside.addr("add", index=bridge, address=self._address(254), prefixlen=PREFIX_LENGTH)
        outside.link("set", index=bridge, state="up")
        for number, (machine, address) in enumerate(self.addresses.items()):
            namespace = self.plan.namespace(machine)
            netns.create(namespace)
            inside = self._inside[machine] = NetNS(namespace)
            port = f"b-{self.plan.net}-{number}"
            peer = {"ifname": "eth0", "net_ns_fd": namespace}
            outside.link("add", ifname=port, kind="veth", peer=peer)
            index = outside.link_lookup(ifname=port)[0]
            outside.link("set", index=index, master=bridge, state="up")
            for name in ("lo", "eth0"):
                inside.link("set", index=inside.link_lookup(ifname=name)[0], state="up")
            inside.addr("add", index=self._eth0(machine), address=address, prefixlen=PREFIX_LENGTH)

    def _address(self, last: int) -> str:
        return f"198.18.{self.plan.net}.{last}"

    def _eth0(self, machine: str) -> int:
        return int(self._inside[machine].link_lookup(ifname="eth0")[0])

    def close(self) -> None:
        """Everything that create() made. Links first: they would go with their namespaces, but
        only some time after."""
        with IPRoute() as outside:
            for number in range(len(self.addresses)):
                for index in outside.link_lookup(ifname=f"b-{self.plan.net}-{number}"):
                    outside.link("del", index=index)
            for index in outside.link_lookup(ifname=self.bridge):
                outside.link("del", index=index)
        for inside in self._inside.values():
            inside.close()
        for machine in self.addresses:
            with contextlib.suppress(FileNotFoundError):
                netns.remove(self.plan.namespace(machine))

    # Faults.

    def drop(self, senders: Iterable[str], receivers: Iterable[str]) -> None:
        """Nothing of what the senders send reaches the receivers; the other way is as it was."""
        receivers = list(receivers)
        for sender in senders:
            for receiver in receivers:
                if sender != receiver:
                    self._neighbour("replace", sender, receiver)
                    self._cuts.add((sender, receiver))

    def part(self, ones: Iterable[str], others: Iterable[str]) -> None:
        """Nothing passes between the two groups."""
        ones, others = list(ones), list(others)
        self.drop(ones, others)
        self.drop(others, ones)

    def slow_down(self, machine: str, bytes_per_second: int) -> None:
        """What the machine sends leaves at no more than this rate (tbf)."""
        self._inside[machine].tc(
            "replace",
            "tbf",
            self._eth0(machine),
            0x10000,
            rate=bytes_per_second,
            burst=BURST_BYTES,
            latency=QUEUE_US,
        )
        self._slow.add(machine)

    def heal(self) -> None:
        """Everything passes again, at full speed."""
        for sender, receiver in self._cuts:
            self._neighbour("del", sender, receiver)
        self._cuts.clear()
        for machine in self._slow:
            self._inside[machine].tc("del", index=self._eth0(machine), parent=TC_ROOT)
        self._slow.clear()

    def _neighbour(self, command: str, sender: str, receiver: str) -> None:
        self._inside[sender].neigh(
            command,
            dst=self.addresses[receiver],
            lladdr=NOBODY,
            ifindex=self._eth0(sender),
            state=NUD_PERMANENT,
            family=socket.AF_INET,
        )


def machines(plan: Plan) -> dict[str, str]:
    """The address of each machine by its name: metadata services and hosts."""
    found = {}
    for spec in layout(plan, Path()):
        if spec.role != "etcd":
            found[spec.name] = split_endpoint(spec.endpoints["grpc"])[0]
    return found
