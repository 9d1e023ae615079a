"""The shape of a development cluster: addresses that do not collide, settings that load."""

from pathlib import Path

import pytest

from blockd.config.host import HostSettings
from blockd.dev.cluster import to_toml
from blockd.dev.layout import Plan, daemon_environment, host_settings, layout, site_message
from blockd.model.errors import InvalidArgument


def endpoints(plan: Plan) -> list[str]:
    return [
        endpoint.removeprefix("http://")
        for spec in layout(plan, Path("/d"))
        for kind, endpoint in spec.endpoints.items()
        if kind != "nbd_unix"
    ]


def test_every_process_has_endpoints_of_its_own() -> None:
    plan = Plan(hosts_per_site=3)
    mine = endpoints(plan)
    assert len(set(mine)) == len(mine)
    assert not set(mine) & set(endpoints(Plan(hosts_per_site=3, net=1)))
    assert all(endpoint.startswith("127.0.1") for endpoint in mine)


def test_names_roles_and_order() -> None:
    specs = layout(Plan(sites=("a", "b"), hosts_per_site=2), Path("/d"))
    assert [(spec.name, spec.role) for spec in specs] == [
        ("meta-a", "meta"),
        ("etcd-a", "etcd"),
        ("meta-b", "meta"),
        ("etcd-b", "etcd"),
        ("a-1", "host"),
        ("a-2", "host"),
        ("b-1", "host"),
        ("b-2", "host"),
    ]
    initial = specs[0].argv[specs[0].argv.index("--etcd-initial-cluster") + 1]
    assert initial == "a=http://127.0.10.1:7402,b=http://127.0.11.1:7402"


def test_a_tie_breaker_has_a_metadata_service_and_no_host() -> None:
    specs = layout(Plan(sites=("a", "b", "c"), tie_breakers=("c",)), Path("/d"))
    assert [spec.name for spec in specs if spec.role == "host"] == ["a-1", "b-1"]
    assert [spec.name for spec in specs if spec.site == "c"] == ["meta-c", "etcd-c"]


def test_in_namespaces_every_machine_has_an_address_and_enters_its_own() -> None:
    plan = Plan(hosts_per_site=2, net=7, namespaces=True)
    specs = layout(plan, Path("/d"))
    machines = {e.rpartition(":")[0] for e in endpoints(plan)}
    assert len(machines) == 9  # a metadata service and two hosts at each of three sites
    assert all(machine.startswith("198.18.7.") for machine in machines)
    for spec in specs:
        if spec.role != "etcd":  # which is its meta's child
            assert spec.argv[:2] == ("nsenter", f"--net=/run/netns/blockd-7-{spec.name}")
    with pytest.raises(InvalidArgument, match="network namespaces"):
        Plan(hosts_per_site=5, namespaces=True).check()


def test_settings_of_a_host_load(tmp_path: Path) -> None:
    plan = Plan()
    spec = next(spec for spec in layout(plan, tmp_path) if spec.role == "host")
    file = tmp_path / "host.toml"
    file.write_text(to_toml(host_settings(plan, tmp_path, spec)), encoding="utf-8")
    settings = HostSettings.load(file=file, environ={})
    assert settings.name == "paris-1"
    assert settings.format
    assert len(settings.meta) == 3


def test_toml_strings_are_escaped(tmp_path: Path) -> None:
    import tomllib

    values = {"a": 'quo"te\\', "b": ["x", "y"], "c": True, "d": 5}
    assert tomllib.loads(to_toml(values)) == values


@pytest.mark.parametrize(
    "plan",
    [
        Plan(sites=()),
        Plan(sites=("paris", "paris")),
        Plan(sites=("Paris",)),
        Plan(hosts_per_site=0),
        Plan(tie_breakers=("nowhere",)),
        Plan(sites=("a",), tie_breakers=("a",)),
        Plan(store_bytes=1),
        Plan(net=256),
    ],
)
def test_plans_that_cannot_be(plan: Plan) -> None:
    with pytest.raises(InvalidArgument):
        plan.check()


def test_known_cities_have_their_place() -> None:
    assert site_message("lyon").latitude == pytest.approx(45.76)
    assert site_message("nowhere").jurisdiction == "FR"


def test_settings_of_the_caller_do_not_reach_the_daemons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOCKD_META", "elsewhere:1")
    environ = daemon_environment()
    assert "BLOCKD_META" not in environ
    assert environ["PATH"]
