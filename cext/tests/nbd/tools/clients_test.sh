#!/bin/bash
# Real clients against the real server on its real reactor:
#
#   clients_test.sh PATH_OF_nbd_memory_server
# nbdinfo, nbdcopy, qemu-img, qemu-io, libnbd and fio with verification must all be content, over a
# unix socket and TCP, and the server must end cleanly with a client still attached.
set -euo pipefail
server=$1
dir=$(mktemp -d)
pid=
finish() {
  if [[ -n $pid ]]; then kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; fi
  rm -rf "$dir"
}
trap finish EXIT
fail() { echo "clients_test: $*" >&2; exit 1; }

start() {
  "$server" "$1" 128 >"$dir/log" 2>&1 &
  pid=$!
  for _ in $(seq 200); do
    grep -q '^listening on' "$dir/log" && return
    kill -0 "$pid" || fail "the server ended: $(cat "$dir/log")"
    sleep 0.05
  done
  fail "the server does not listen: $(cat "$dir/log")"
}
stop() {
  kill "$pid"
  wait "$pid" || fail "the server ended with status $?: $(cat "$dir/log")"
  pid=
}

start "unix:$dir/sock"
disk="nbd+unix:///disk?socket=$dir/sock"
fixed="nbd+unix:///disk-ro?socket=$dir/sock"

echo "nbdinfo"
nbdinfo --list "nbd+unix://?socket=$dir/sock" >"$dir/list"
grep -q 'export="disk-ro"' "$dir/list" || fail "nbdinfo does not list disk-ro"
[[ $(nbdinfo --size "$disk") == 134217728 ]] || fail "nbdinfo tells another size"
nbdinfo --is read-only "$fixed"
nbdinfo --can multi-conn "$disk"

echo "nbdcopy, qemu-img"
head -c 100000000 /dev/urandom >"$dir/image"
truncate -s 128M "$dir/image"
nbdcopy --flush "$dir/image" "$disk"
nbdcopy "$disk" "$dir/back"
cmp "$dir/image" "$dir/back"
qemu-img compare -q -f raw -F raw "$dir/image" "$fixed"

echo "qemu-io"
qemu-io -f raw -c "write -P 7 511 70000" -c "read -P 7 511 70000" -c "write -z 5M 1000" \
  -c "read -P 0 5M 1000" -c "discard 1M 3M" -c flush "$disk" >"$dir/qemu-io"
! grep -Ei 'fail|error' "$dir/qemu-io" || fail "qemu-io: $(cat "$dir/qemu-io")"

echo "libnbd"
/usr/bin/python3 - "$disk" "$fixed" <<'PYTHON'
import errno
import os
import sys

import nbd

disk, fixed = nbd.NBD(), nbd.NBD()
for handle, uri in ((disk, sys.argv[1]), (fixed, sys.argv[2])):
    handle.set_strict_mode(0)
    handle.connect_uri(uri)


def refused(code, action):
    try:
        action()
    except nbd.Error as error:
        assert error.errno == errno.errorcode[code], (error.errno, code)
        return
    raise AssertionError(f"not refused with {errno.errorcode[code]}")


size = disk.get_size()
refused(errno.EINVAL, lambda: disk.pread(512, size))
refused(errno.ENOSPC, lambda: disk.pwrite(b"x" * 512, size - 1))
refused(errno.EINVAL, lambda: disk.pread(512, 0, 1 << 3))
refused(errno.ENOSPC, lambda: disk.zero(1 << 20, size - 5))
refused(errno.EINVAL, lambda: disk.cache(4096, 0))
refused(errno.EPERM, lambda: fixed.pwrite(b"x", 0))
data = os.urandom(32 << 20)
disk.pwrite(data, 777, nbd.CMD_FLAG_FUA)
assert fixed.pread(32 << 20, 777) == data
buffers = [nbd.Buffer(1 << 20) for _ in range(100)]
cookies = [disk.aio_pread(buffer, index << 20) for index, buffer in enumerate(buffers)]
for cookie in cookies:
    while not disk.aio_command_completed(cookie):
        disk.poll(-1)
disk.shutdown()
PYTHON

echo "fio"
fio --name=verify --ioengine=nbd --uri="$disk" --size=64M --rw=randwrite --bsrange=512-300k \
  --iodepth=32 --verify=crc32c --verify_fatal=1 --do_verify=1 --output="$dir/fio"
grep -q 'err= 0' "$dir/fio" || fail "fio: $(cat "$dir/fio")"

echo "the end with a client attached"
/usr/bin/python3 - "$disk" >"$dir/attached" 2>&1 <<'PYTHON' &
import sys
import time

import nbd

disk = nbd.NBD()
disk.connect_uri(sys.argv[1])
print("attached", flush=True)
time.sleep(60)
PYTHON
client=$!
for _ in $(seq 200); do grep -q attached "$dir/attached" && break; sleep 0.05; done
grep -q attached "$dir/attached" || fail "no client attached: $(cat "$dir/attached")"
stop
kill "$client"
wait "$client" || true

echo "tcp"
start "tcp:127.0.0.1:0"
address=$(sed -n 's/^listening on tcp://p' "$dir/log")
nbdcopy "$dir/image" "nbd://$address/disk"
qemu-img compare -q -f raw -F raw "$dir/image" "nbd://$address/disk"
stop
