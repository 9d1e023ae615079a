"""Operators and sites: where hosts can be. A host registers only at a site that is known here."""

from blockd.meta.etcd import Unchanged
from blockd.meta.records import CONFLICTS_MAX, OPERATORS, SITES, Records, conflict, decode, put
from blockd.model.errors import AlreadyExists, NotFound
from blockd.rpc.gen.types_pb2 import Operator, Site
from blockd.rpc.status import hinted
from blockd.rules.volume_spec import check_coordinates, check_jurisdiction, check_place_name


class Places:
    """Stateless; every call reads etcd."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def create_operator(self, operator: Operator) -> Operator:
        """Idempotent. Raises InvalidArgument."""
        check_place_name(operator.name, "name")
        key = OPERATORS + operator.name
        for _ in range(CONFLICTS_MAX):
            if await self._records.etcd.get(key) is not None or await self._records.commit(
                [Unchanged(key, 0)],
                [put(key, operator)],
                "operator.created",
                f"operator/{operator.name}",
                f"operator {operator.name} joined",
            ):
                return operator
        raise conflict(f"operator {operator.name}")

    async def list_operators(self) -> list[Operator]:
        """By name."""
        entries = await self._records.etcd.scan(OPERATORS)
        return [decode(entry, Operator).value for entry in entries]

    async def create_site(self, site: Site) -> Site:
        """Idempotent for the same description. Raises InvalidArgument, NotFound: its operator,
        AlreadyExists: the name has another description."""
        check_place_name(site.name, "name")
        check_place_name(site.operator, "operator")
        check_jurisdiction(site.jurisdiction)
        check_coordinates(site.latitude, site.longitude)
        for _ in range(CONFLICTS_MAX):
            known = await self._records.etcd.get(SITES + site.name)
            if known is not None:
                if decode(known, Site).value != site:
                    raise AlreadyExists(
                        f"site {site.name} exists with another description", field="name"
                    )
                return site
            if await self._commit_site(site):
                return site
        raise conflict(f"site {site.name}")

    async def _commit_site(self, site: Site) -> bool:
        owner = await self._records.etcd.get(OPERATORS + site.operator)
        if owner is None:
            raise hinted(
                NotFound(f"no operator named {site.operator!r}", field="operator"),
                "blockctl operator list",
            )
        key = SITES + site.name
        return await self._records.commit(
            [Unchanged(key, 0), Unchanged(owner.key, owner.mod_revision)],
            [put(key, site)],
            "site.created",
            f"site/{site.name}",
            f"site {site.name} of operator {site.operator}",
        )

    async def list_sites(self) -> list[Site]:
        """By name."""
        entries = await self._records.etcd.scan(SITES)
        return [decode(entry, Site).value for entry in entries]
