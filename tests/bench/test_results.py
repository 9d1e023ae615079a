"""The harness's arithmetic: what it says must follow from what fio and the kernel said."""

import os
import subprocess
import time

import pytest

from bench.accounting import Window, process_times
from bench.compare import pinned, rotated
from bench.fio import FioError, parse
from bench.jobs import JOBS, select
from bench.results import Sample, summarise, unmet

READ_JOB = JOBS[0]


def sample(candidate: str, turn: int, iops: float) -> Sample:
    return Sample(READ_JOB.name, candidate, turn, iops, iops * 4096, 10, 20, 5, 0, 0)


def test_ratio_is_taken_within_each_round() -> None:
    # The machine was half as fast in the second round: ratios of medians would mix the two.
    samples = [
        *(sample("qemu", 0, 1000), sample("qemu", 1, 500)),
        *(sample("blockd-3", 0, 2000), sample("blockd-3", 1, 1000)),
    ]
    base, judged = summarise([READ_JOB], ["qemu", "blockd-3"], samples, "qemu")
    assert (base.rate, base.ratio) == (750, 1.0)
    assert (judged.rate, judged.ratio, judged.rounds) == (1500, 2.0, 2)
    assert judged.spread == pytest.approx(1 / 3)


def test_round_without_baseline_gives_no_ratio() -> None:
    (cell,) = summarise([READ_JOB], ["blockd-3"], [sample("blockd-3", 0, 100)], "qemu")
    assert cell.ratio is None
    assert unmet([cell], "blockd-3") == []


def test_missed_target_is_named() -> None:
    samples = [sample("qemu", 0, 1000), sample("blockd-3", 0, 900)]
    cells = summarise([READ_JOB], ["qemu", "blockd-3"], samples, "qemu")
    (line,) = unmet(cells, "blockd-3")
    assert line.startswith(READ_JOB.title)
    assert "0.90" in line


def fio_document(**directions: dict[str, object]) -> dict[str, object]:
    idle = {"total_ios": 0, "io_bytes": 0, "clat_ns": {}}
    job = {"error": 0, "job_runtime": 2000, "usr_cpu": 10.0, "sys_cpu": 15.0}
    return {"jobs": [{**job, "read": idle, "write": idle, "sync": {"total_ios": 0}, **directions}]}


def latencies(p50: int, p99: int) -> dict[str, object]:
    return {"percentile": {"50.000000": p50, "99.000000": p99}}


def test_fio_output_becomes_rates_and_microseconds() -> None:
    write = {"total_ios": 100, "io_bytes": 409600, "clat_ns": latencies(3000, 9000)}
    result = parse(fio_document(write=write))
    assert (result.operations, result.seconds, result.p50_us, result.p99_us) == (100, 2, 3, 9)
    assert result.client_cpu_seconds == pytest.approx(0.5)


def test_latency_with_fsync_is_of_both() -> None:
    write = {"total_ios": 100, "io_bytes": 409600, "clat_ns": latencies(3000, 9000)}
    sync = {"total_ios": 100, "lat_ns": latencies(5000, 7000)}
    assert parse(fio_document(write=write, sync=sync)).p50_us == 8


def test_fio_run_without_operations_is_an_error() -> None:
    with pytest.raises(FioError, match="no operation"):
        parse(fio_document())


def test_unknown_job_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="randread-7"):
        select(["randread-7"])


def test_each_round_starts_with_another_candidate() -> None:
    assert [rotated([1, 2, 3], turn)[0] for turn in range(4)] == [1, 2, 3, 1]


def test_window_tells_servers_from_others() -> None:
    """A busy process counts as a server or as noise, according to what it is declared to be."""
    with subprocess.Popen(["sh", "-c", "while :; do :; done"]) as busy:
        as_server = Window([busy.pid], [], [])
        as_other = Window([], [], [])
        as_idle = Window([], [], [busy.pid])
        time.sleep(0.5)
        server, other, idle = as_server.close(), as_other.close(), as_idle.close()
        busy.kill()
    assert server.servers >= 0.05
    assert other.servers == 0
    assert other.others >= 0.1
    assert idle.others < other.others


def test_process_that_is_gone_has_no_times() -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    assert process_times(ended.pid) is None


def test_pinning_is_undone() -> None:
    everything = os.sched_getaffinity(0)
    with subprocess.Popen(["sleep", "10"]) as server:
        with pinned("same", [server.pid]) as client:
            assert os.sched_getaffinity(server.pid) == client == {min(everything)}
        assert os.sched_getaffinity(server.pid) == everything
        server.kill()
