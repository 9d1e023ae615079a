"""Every command of blockctl: its tables, its JSON, its exit codes, its error lines."""

import json

import pytest

from blockd.cli import blockctl
from blockd.cli.blockctl_session import find_endpoints
from blockd.model.errors import ChecksumMismatch, InvalidArgument, LinkLost, NotFound
from blockd.rpc.gen import host_pb2

NO_METADATA = "127.0.0.1:1"


def error_line(done, code: int) -> str:
    """The one line of a failed command."""
    assert done.code == code, (done.out, done.err)
    lines = [line for line in done.err.splitlines() if line.startswith("blockctl: ")]
    assert len(lines) == 1
    return lines[0]


def create(cluster, *options: str):
    return cluster.ok("volume", "create", "vol", "--size", "2GiB", *options)


def test_lists_as_tables(cluster):
    create(cluster)
    assert "paris" in cluster.ok("site", "list").out
    assert "andromede" in cluster.ok("operator", "list").out
    hosts = cluster.ok("host", "list").out
    assert "lyon-1" in hosts
    assert "up" in hosts
    volumes = cluster.ok("volume", "list").out
    assert "vol" in volumes
    assert "2 GiB" in volumes
    assert "in sync" in volumes


def test_json_goes_before_or_after_the_command(cluster):
    after = cluster.ok("site", "list", "-o", "json").json
    assert cluster.ok("-o", "json", "site", "list").json == after
    assert [site["name"] for site in after["sites"]] == ["lyon", "marseille", "paris"]


def test_places_are_created(cluster):
    cluster.ok("operator", "create", "numergy")
    cluster.ok("site", "create", "nantes", "--operator", "numergy", "--jurisdiction", "FR")
    names = [one["name"] for one in cluster.ok("site", "list", "-o", "json").json["sites"]]
    assert "nantes" in names
    assert "operator" in error_line(cluster.ctl("site", "create", "brest", "--operator", "x"), 3)


def test_host_show(cluster):
    view = cluster.ok("host", "show", "paris-1", "-o", "json").json
    assert view["state"] == "up"
    assert view["stores"][0]["capacity_bytes"] == 1 << 40
    assert view["daemon"]["nbd_endpoints"] == ["unix:/run/paris-1.sock"]
    assert "paris-1" in cluster.ok("host", "show", "paris-1").out
    assert "'nope'" in error_line(cluster.ctl("host", "show", "nope"), 3)


def test_the_life_of_a_volume(cluster):
    created = create(cluster, "-o", "json").json
    assert created["size_bytes"] == 2 << 30
    assert created["replicas"] == 3
    assert len(created["segments"]) == 2
    attached = cluster.ok("volume", "attach", "vol", "--host", "paris-1", "-o", "json").json
    assert attached["host"] == "paris-1"
    assert attached["epoch"] == 1
    assert attached["nbd_uris"]
    table = cluster.ok("volume", "attach", "vol").out
    assert attached["nbd_uris"][0] in table.splitlines()
    resized = cluster.ok("volume", "resize", "vol", "--size", "3GiB", "-o", "json").json
    assert resized["size_bytes"] == 3 << 30
    line = error_line(cluster.ctl("volume", "resize", "vol", "--size", "1GiB"), 2)
    assert "its last 2 GiB are destroyed: that takes --force" in line
    shrunk = cluster.ok("volume", "resize", "vol", "--size", "1GiB", "--force", "-o", "json").json
    assert (shrunk["size_bytes"], len(shrunk["segments"])) == (1 << 30, 1)
    policy = ("volume", "policy", "vol")
    lowered = cluster.ok(*policy, "--min-in-sync", "1", "--io-timeout", "2m", "-o", "json").json
    assert (lowered["min_in_sync"], lowered["io_timeout_ms"]) == (1, 120_000)
    assert "requests wait 2 min" in cluster.ok("volume", "show", "vol").out
    assert "min_in_sync is 1" in error_line(cluster.ctl(*policy, "--min-in-sync", "2"), 2)
    assert "not a duration: 'soon'" in error_line(cluster.ctl(*policy, "--io-timeout", "soon"), 2)
    assert "nothing to change" in error_line(cluster.ctl(*policy), 2)
    line = error_line(cluster.ctl("volume", "delete", "vol"), 4)
    assert "attached at paris-1" in line
    assert cluster.ok("volume", "detach", "vol", "-o", "json").json["attached"] is False
    line = error_line(cluster.ctl("volume", "resize", "vol", "--size", "1MiB", "--force"), 4)
    assert "attached nowhere" in line
    cluster.ok("volume", "delete", "vol")
    assert cluster.ok("volume", "list", "-o", "json").json == {"volumes": []}


def test_show_tells_who_is_in_sync_and_how_far_resync_is(cluster):
    volume = create(cluster, "-o", "json").json
    cluster.ok("volume", "attach", "vol", "--host", "paris-1")
    names = {member["host"]: member["host_id"] for member in volume["segments"][0]["members"]}

    async def shrink(rig):
        from blockd.rpc.gen import meta_pb2

        await rig.call(
            "ChangeInSync",
            meta_pb2.ChangeInSyncRequest(
                volume_id=volume["id"],
                segment=0,
                epoch=1,
                generation=1,
                in_sync_host_ids=[names["paris-1"], names["lyon-1"]],
            ),
        )
        rig.hosts["paris-1"].segments = [
            host_pb2.SegmentStatus(
                index=0,
                state="serving",
                joining=[names["marseille-1"]],
                behind=[names["lyon-1"]],
                resync_bytes_done=1 << 20,
                resync_bytes_total=4 << 20,
                resync_us=2_000_000,
            )
        ]

    cluster.do(shrink)
    shown = cluster.ok("volume", "show", "vol").out
    words = " ".join(shown.split())
    assert "marseille-1 (joining)" in words
    assert "lyon-1 (behind," in words
    assert "1 MiB of 4 MiB, 512 KiB/s, 6 s left" in words
    assert "degraded" in shown
    view = cluster.ok("volume", "show", "vol", "-o", "json").json
    assert view["degraded"] is True
    assert view["engine"]["segments"][0]["resync_bytes_done"] == 1 << 20
    assert [m["in_sync"] for m in view["segments"][0]["members"]].count(True) == 2


def test_show_tells_when_checksums_agreed_and_which_differ(cluster):
    volume = create(cluster, "-o", "json").json
    cluster.ok("volume", "attach", "vol", "--host", "paris-1")
    lyon = next(m for m in volume["segments"][0]["members"] if m["host"] == "lyon-1")

    def tell(*segments: host_pb2.SegmentStatus) -> str:
        async def change(rig):
            rig.hosts["paris-1"].segments = list(segments)

        cluster.do(change)
        return " ".join(cluster.ok("volume", "show", "vol").out.split())

    agreed = [host_pb2.SegmentStatus(index=i, proven_ago_us=12_000_000 + i) for i in range(2)]
    assert "agreed 12 s ago" in tell(*agreed)
    view = cluster.ok("volume", "show", "vol", "-o", "json").json["engine"]["segments"]
    assert [one["proven_ago_us"] for one in view] == [12_000_000, 12_000_001]
    assert "not compared yet in 1 of 2" in tell(agreed[0], host_pb2.SegmentStatus(index=1))
    differs = host_pb2.SegmentStatus(index=1, differing=[lyon["host_id"]])
    words = tell(agreed[0], differs)
    assert "checksums differ" in words
    assert "lyon-1 (its checksums" in words
    view = cluster.ok("volume", "show", "vol", "-o", "json").json["engine"]["segments"]
    assert view[1]["differing"] == [lyon["host_id"]]
    assert view[1]["proven_ago_us"] is None


def set_digest(cluster, host: str, volume_id: str, digest: int, seq: int = 1) -> None:
    async def change(rig):
        rig.hosts[host].digests[volume_id, 0] = [
            host_pb2.ChunkDigest(chunk=3, epoch=1, seq=seq, valid_mask=1, digest=digest)
        ]

    cluster.do(change)


def test_verify_compares_replicas(cluster):
    volume_id = create(cluster, "-o", "json").json["id"]
    for host in cluster.rig.hosts:
        set_digest(cluster, host, volume_id, 7)
    good = cluster.ok("volume", "verify", "vol", "--read", "-o", "json").json
    assert good["identical"] is True
    assert (good["segments"], good["chunks"], good["replicas"]) == (2, 1, 6)
    assert "hold the same" in cluster.ok("volume", "verify", "vol").out
    set_digest(cluster, "lyon-1", volume_id, 8)
    bad = cluster.ctl("volume", "verify", "vol", "-o", "json")
    assert bad.code == 6
    difference = bad.json["differences"][0]
    assert difference["offset_bytes"] == 3 * 65536
    assert difference["same_version"] is True
    assert cluster.ctl("volume", "verify", "vol").code == 6


def test_verify_waits_for_writes_in_motion(cluster):
    volume_id = create(cluster, "-o", "json").json["id"]
    for host in cluster.rig.hosts:
        set_digest(cluster, host, volume_id, 7)
    set_digest(cluster, "lyon-1", volume_id, 6, seq=0)

    async def catch_up():
        set_digest_now = cluster.rig.hosts["lyon-1"].digests
        if cluster.rig.hosts["lyon-1"].calls.count("ListDigests") > 3:
            set_digest_now[volume_id, 0] = cluster.rig.hosts["paris-1"].digests[volume_id, 0]

    async def install(rig):
        rig.hosts["lyon-1"].failures["ListDigests"] = catch_up

    cluster.do(install)
    assert cluster.ok("volume", "verify", "vol", "-o", "json").json["identical"] is True


@pytest.mark.parametrize(
    ("error", "code"),
    [(ChecksumMismatch("block 5 does not match"), 6), (LinkLost("gone"), 5)],
)
def test_verify_reports_replicas_that_fail(cluster, error, code):
    create(cluster)

    async def fail(rig):
        rig.hosts["lyon-1"].failures["ListDigests"] = error

    cluster.do(fail)
    done = cluster.ctl("volume", "verify", "vol", "-o", "json")
    assert done.code == code
    assert done.json["failures"][0]["host"] == "lyon-1"
    assert done.json["failures"][0]["error"] == error.name


def test_map_names_hosts_stores_and_offsets(cluster):
    create(cluster)
    view = cluster.ok("volume", "map", "vol", "--offset", "1GiB", "-o", "json").json
    assert (view["segment"], view["block"]) == (1, 0)
    assert {one["host"] for one in view["replicas"]} == {"paris-1", "lyon-1", "marseille-1"}
    assert view["replicas"][0]["device_offset_bytes"] == 1 << 20
    assert "/srv/lyon-1.img" in cluster.ok("volume", "map", "vol", "--offset", "5000").out
    assert "beyond the end" in error_line(
        cluster.ctl("volume", "map", "vol", "--offset", "2GiB"), 2
    )


def test_events_are_printed_and_end(cluster):
    create(cluster)
    lines = cluster.ok("events", "-o", "json").out.splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    assert kinds.count("volume.created") == 1
    assert "volume vol is available" in cluster.ok("events", "-n", "10").out


def test_cluster_status(cluster):
    create(cluster)
    view = cluster.ok("cluster", "status", "-o", "json").json
    assert view["hosts_up"] == 3
    assert view["volumes"] == 1
    assert view["meta"] == [{"endpoint": cluster.rig.endpoint, "reachable": True}]
    assert view["cluster_id"] in cluster.ok("cluster", "status").out


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["volume", "show", "nothing"], 3, "nothing"),
        (["volume", "create", "x", "--size", "ten"], 2, "ten"),
        (["volume", "create", "x", "--size", "0"], 2, "size"),
        (["volume", "create", "a b", "--size", "1GiB"], 2, "a b"),
        (["volume", "create", "x", "--size", "1GiB", "--replicas", "5"], 4, "5 sites"),
        (["volume", "create", "x", "--size", "99TiB"], 2, "16 TiB"),
        (["volume", "attach", "nothing"], 3, "nothing"),
        (["volume", "frobnicate"], 2, "frobnicate"),
        (["volume", "create", "x"], 2, "--size"),
        (["volume", "list", "-o", "yaml"], 2, "yaml"),
    ],
)
def test_bad_input_is_one_line_and_the_tables_exit_code(cluster, arguments, code, word):
    assert word in error_line(cluster.ctl(*arguments), code)


def test_an_unreachable_service_is_named(capsys):
    assert blockctl.run(["--meta", NO_METADATA, "volume", "list"]) == 5
    err = capsys.readouterr().err
    assert err.startswith("blockctl: no metadata service answers")
    assert NO_METADATA in err


def test_fails_over_between_instances(cluster, capsys):
    endpoints = f"{NO_METADATA},{cluster.rig.endpoint}"
    assert blockctl.run(["--meta", endpoints, "volume", "list", "-o", "json"]) == 0


def test_where_the_cluster_is_found(tmp_path):
    (tmp_path / "cluster.json").write_text(json.dumps({"cluster_id": "c", "meta": ["h:1", "h:2"]}))
    assert find_endpoints(None, tmp_path, {}) == ("h:1", "h:2")
    assert find_endpoints(None, None, {"BLOCKD_DIR": str(tmp_path)}) == ("h:1", "h:2")
    assert find_endpoints(None, tmp_path, {"BLOCKD_META": "other:1"}) == ("h:1", "h:2")
    assert find_endpoints("a:1, b:2", tmp_path, {}) == ("a:1", "b:2")
    with pytest.raises(NotFound):
        find_endpoints(None, tmp_path / "none", {})
    with pytest.raises(InvalidArgument):
        find_endpoints("nonsense", None, {})
    (tmp_path / "cluster.json").write_text("{")
    with pytest.raises(InvalidArgument, match="damaged"):
        find_endpoints(None, tmp_path, {})


def test_names_are_completed_live(cluster, capsys, monkeypatch):
    create(cluster)
    monkeypatch.setenv("_BLOCKCTL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"blockctl --meta {cluster.rig.endpoint} volume show ")
    monkeypatch.setenv("COMP_CWORD", "5")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        blockctl.app(prog_name="blockctl")
    assert "vol" in capsys.readouterr().out.split()
