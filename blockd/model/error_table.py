"""Every error of blockd as an exception class.

Written by generate.py from cext/include/blockd/errors.def; edit that file, not this one.
"""

from blockd.model.error_base import BlockdError


class InvalidArgument(BlockdError):
    """A parameter is malformed."""

    code = 1
    kind = "request"
    nbd_errno = "EINVAL"
    grpc_status = "INVALID_ARGUMENT"
    exit_code = 2
    meaning = "a parameter is malformed"


class ExtentOutOfRange(BlockdError):
    """The extent ends beyond the volume."""

    code = 2
    kind = "request"
    nbd_errno = "EINVAL"
    grpc_status = "OUT_OF_RANGE"
    exit_code = 2
    meaning = "the extent ends beyond the volume"


class RequestTooLarge(BlockdError):
    """The request exceeds the size limit."""

    code = 3
    kind = "request"
    nbd_errno = "EINVAL"
    grpc_status = "INVALID_ARGUMENT"
    exit_code = 2
    meaning = "the request exceeds the size limit"


class ReadOnly(BlockdError):
    """The export is read-only."""

    code = 4
    kind = "request"
    nbd_errno = "EPERM"
    grpc_status = "PERMISSION_DENIED"
    exit_code = 4
    meaning = "the export is read-only"


class NotFound(BlockdError):
    """No such volume, host, store or segment."""

    code = 5
    kind = "request"
    nbd_errno = "ENOENT"
    grpc_status = "NOT_FOUND"
    exit_code = 3
    meaning = "no such volume, host, store or segment"


class AlreadyExists(BlockdError):
    """The name is taken."""

    code = 6
    kind = "request"
    nbd_errno = "EEXIST"
    grpc_status = "ALREADY_EXISTS"
    exit_code = 4
    meaning = "the name is taken"


class EpochFenced(BlockdError):
    """A newer attachment has fenced this one."""

    code = 10
    kind = "stale"
    nbd_errno = "ESHUTDOWN"
    grpc_status = "FAILED_PRECONDITION"
    exit_code = 4
    meaning = "a newer attachment has fenced this one"


class LeaseHeld(BlockdError):
    """An earlier engine's lease has not run out."""

    code = 11
    kind = "busy"
    nbd_errno = "EIO"
    grpc_status = "UNAVAILABLE"
    exit_code = 5
    meaning = "an earlier engine's lease has not run out"


class LeaseLost(BlockdError):
    """The engine holds no quorum of leases."""

    code = 12
    kind = "stale"
    nbd_errno = "EIO"
    grpc_status = "UNAVAILABLE"
    exit_code = 5
    meaning = "the engine holds no quorum of leases"


class QuorumLost(BlockdError):
    """Fewer members answer than the write quorum needs."""

    code = 13
    kind = "busy"
    nbd_errno = "EIO"
    grpc_status = "UNAVAILABLE"
    exit_code = 5
    meaning = "fewer members answer than the write quorum needs"


class NotAttached(BlockdError):
    """The volume is not attached at this host."""

    code = 14
    kind = "stale"
    nbd_errno = "ESHUTDOWN"
    grpc_status = "FAILED_PRECONDITION"
    exit_code = 4
    meaning = "the volume is not attached at this host"


class StaleGeneration(BlockdError):
    """The in-sync set has changed since."""

    code = 15
    kind = "stale"
    nbd_errno = "EIO"
    grpc_status = "ABORTED"
    exit_code = 5
    meaning = "the in-sync set has changed since"


class NotInSync(BlockdError):
    """The replica misses acknowledged writes."""

    code = 16
    kind = "stale"
    nbd_errno = "EIO"
    grpc_status = "FAILED_PRECONDITION"
    exit_code = 4
    meaning = "the replica misses acknowledged writes"


class VolumeAttached(BlockdError):
    """The volume is attached."""

    code = 17
    kind = "request"
    nbd_errno = "EIO"
    grpc_status = "FAILED_PRECONDITION"
    exit_code = 4
    meaning = "the volume is attached"


class InUse(BlockdError):
    """Something else depends on it."""

    code = 18
    kind = "request"
    nbd_errno = "EIO"
    grpc_status = "FAILED_PRECONDITION"
    exit_code = 4
    meaning = "something else depends on it"


class Busy(BlockdError):
    """Out of buffers or queue places; retry."""

    code = 20
    kind = "busy"
    nbd_errno = "EIO"
    grpc_status = "RESOURCE_EXHAUSTED"
    exit_code = 5
    meaning = "out of buffers or queue places; retry"


class JournalFull(BlockdError):
    """The journal waits for a checkpoint."""

    code = 21
    kind = "busy"
    nbd_errno = "EIO"
    grpc_status = "RESOURCE_EXHAUSTED"
    exit_code = 5
    meaning = "the journal waits for a checkpoint"


class NoSpace(BlockdError):
    """The store has no free chunk."""

    code = 22
    kind = "busy"
    nbd_errno = "ENOSPC"
    grpc_status = "RESOURCE_EXHAUSTED"
    exit_code = 4
    meaning = "the store has no free chunk"


class ShuttingDown(BlockdError):
    """The daemon or export is stopping."""

    code = 23
    kind = "busy"
    nbd_errno = "ESHUTDOWN"
    grpc_status = "UNAVAILABLE"
    exit_code = 5
    meaning = "the daemon or export is stopping"


class ChecksumMismatch(BlockdError):
    """A block does not match its crc-32c."""

    code = 30
    kind = "medium"
    nbd_errno = "EIO"
    grpc_status = "DATA_LOSS"
    exit_code = 6
    meaning = "a block does not match its CRC-32C"


class DiskError(BlockdError):
    """The device failed a read, write or flush."""

    code = 31
    kind = "medium"
    nbd_errno = "EIO"
    grpc_status = "DATA_LOSS"
    exit_code = 6
    meaning = "the device failed a read, write or flush"


class WriteUnresolved(BlockdError):
    """The write is neither done nor failed."""

    code = 40
    kind = "unknown"
    nbd_errno = "EIO"
    grpc_status = "UNKNOWN"
    exit_code = 5
    meaning = "the write is neither done nor failed"


class LinkLost(BlockdError):
    """The connection broke before the answer."""

    code = 41
    kind = "unknown"
    nbd_errno = "EIO"
    grpc_status = "UNAVAILABLE"
    exit_code = 5
    meaning = "the connection broke before the answer"


class Timeout(BlockdError):
    """No answer within the deadline."""

    code = 42
    kind = "unknown"
    nbd_errno = "EIO"
    grpc_status = "DEADLINE_EXCEEDED"
    exit_code = 5
    meaning = "no answer within the deadline"


class ProtocolError(BlockdError):
    """The peer broke the protocol."""

    code = 43
    kind = "request"
    nbd_errno = "EINVAL"
    grpc_status = "INVALID_ARGUMENT"
    exit_code = 2
    meaning = "the peer broke the protocol"


class StoreNotFormatted(BlockdError):
    """No blockd superblock on the device."""

    code = 50
    kind = "config"
    nbd_errno = "EIO"
    grpc_status = "FAILED_PRECONDITION"
    exit_code = 7
    meaning = "no blockd superblock on the device"


class StoreForeign(BlockdError):
    """The store belongs to another cluster."""

    code = 51
    kind = "config"
    nbd_errno = "EIO"
    grpc_status = "FAILED_PRECONDITION"
    exit_code = 7
    meaning = "the store belongs to another cluster"


class StoreDamaged(BlockdError):
    """A structure of the store fails its checksum."""

    code = 52
    kind = "config"
    nbd_errno = "EIO"
    grpc_status = "DATA_LOSS"
    exit_code = 6
    meaning = "a structure of the store fails its checksum"


class StoreTooNew(BlockdError):
    """The store was written by a newer blockd."""

    code = 53
    kind = "config"
    nbd_errno = "EIO"
    grpc_status = "FAILED_PRECONDITION"
    exit_code = 7
    meaning = "the store was written by a newer blockd"


class StoreTooSmall(BlockdError):
    """The device is too small for a store."""

    code = 54
    kind = "config"
    nbd_errno = "EIO"
    grpc_status = "INVALID_ARGUMENT"
    exit_code = 7
    meaning = "the device is too small for a store"


class StoreInUse(BlockdError):
    """Another process has the store open."""

    code = 55
    kind = "config"
    nbd_errno = "EIO"
    grpc_status = "FAILED_PRECONDITION"
    exit_code = 7
    meaning = "another process has the store open"


class AddressInUse(BlockdError):
    """The listening address is taken."""

    code = 56
    kind = "config"
    nbd_errno = "EIO"
    grpc_status = "FAILED_PRECONDITION"
    exit_code = 7
    meaning = "the listening address is taken"


class Unsupported(BlockdError):
    """The kernel or device lacks what this needs."""

    code = 57
    kind = "config"
    nbd_errno = "EINVAL"
    grpc_status = "UNIMPLEMENTED"
    exit_code = 7
    meaning = "the kernel or device lacks what this needs"


class OlderCopy(BlockdError):
    """The store is an older copy of itself."""

    code = 58
    kind = "config"
    nbd_errno = "EIO"
    grpc_status = "FAILED_PRECONDITION"
    exit_code = 7
    meaning = "the store is an older copy of itself"


class PolicyUnsatisfiable(BlockdError):
    """No placement meets the policy."""

    code = 60
    kind = "request"
    nbd_errno = "EIO"
    grpc_status = "FAILED_PRECONDITION"
    exit_code = 4
    meaning = "no placement meets the policy"


class MetadataUnreachable(BlockdError):
    """No metadata service answers."""

    code = 61
    kind = "busy"
    nbd_errno = "EIO"
    grpc_status = "UNAVAILABLE"
    exit_code = 5
    meaning = "no metadata service answers"


ERRORS: tuple[type[BlockdError], ...] = (
    InvalidArgument,
    ExtentOutOfRange,
    RequestTooLarge,
    ReadOnly,
    NotFound,
    AlreadyExists,
    EpochFenced,
    LeaseHeld,
    LeaseLost,
    QuorumLost,
    NotAttached,
    StaleGeneration,
    NotInSync,
    VolumeAttached,
    InUse,
    Busy,
    JournalFull,
    NoSpace,
    ShuttingDown,
    ChecksumMismatch,
    DiskError,
    WriteUnresolved,
    LinkLost,
    Timeout,
    ProtocolError,
    StoreNotFormatted,
    StoreForeign,
    StoreDamaged,
    StoreTooNew,
    StoreTooSmall,
    StoreInUse,
    AddressInUse,
    Unsupported,
    OlderCopy,
    PolicyUnsatisfiable,
    MetadataUnreachable,
)

__all__ = [
    "ERRORS",
    "AddressInUse",
    "AlreadyExists",
    "Busy",
    "ChecksumMismatch",
    "DiskError",
    "EpochFenced",
    "ExtentOutOfRange",
    "InUse",
    "InvalidArgument",
    "JournalFull",
    "LeaseHeld",
    "LeaseLost",
    "LinkLost",
    "MetadataUnreachable",
    "NoSpace",
    "NotAttached",
    "NotFound",
    "NotInSync",
    "OlderCopy",
    "PolicyUnsatisfiable",
    "ProtocolError",
    "QuorumLost",
    "ReadOnly",
    "RequestTooLarge",
    "ShuttingDown",
    "StaleGeneration",
    "StoreDamaged",
    "StoreForeign",
    "StoreInUse",
    "StoreNotFormatted",
    "StoreTooNew",
    "StoreTooSmall",
    "Timeout",
    "Unsupported",
    "VolumeAttached",
    "WriteUnresolved",
]
