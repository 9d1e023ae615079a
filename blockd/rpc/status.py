"""A blockd error on the wire: google.rpc.Status in the trailing metadata of a failed call.

What travels: the gRPC code of the table, the line for people, ErrorInfo{reason: the error's name,
domain: "blockd", metadata: its context}, BadRequest for a context that names a `field`, and Help
with one entry for each note of the exception (`error.add_note("what to do next")`). The other side
gets the same class back, with its context and notes. A failure of the transport itself carries no
ErrorInfo and becomes LinkLost or Timeout.
"""

from collections.abc import Iterable
from typing import cast

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from blockd.model.errors import BlockdError, LinkLost, Timeout, make_error

DOMAIN = "blockd"
DETAILS_KEY = "grpc-status-details-bin"

Metadata = tuple[tuple[str, str | bytes], ...]


def hinted(error: BlockdError, hint: str) -> BlockdError:
    """`error` itself, with a note that says what to do next."""
    error.add_note(hint)
    return error


def hints_of(error: BaseException) -> list[str]:
    """The notes of an error, oldest first."""
    return list(getattr(error, "__notes__", ()))


def grpc_code(error: BlockdError) -> grpc.StatusCode:
    """The gRPC code that the table gives this error."""
    return grpc.StatusCode[error.grpc_status]


def to_status(error: BlockdError) -> status_pb2.Status:
    """The message that describes `error` in full."""
    code = cast(tuple[int, str], grpc_code(error).value)[0]
    status = status_pb2.Status(code=code, message=error.message)
    info = error_details_pb2.ErrorInfo(
        reason=error.name,
        domain=DOMAIN,
        metadata={name: str(value) for name, value in error.context.items()},
    )
    _pack(status, info)
    if "field" in error.context:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=str(error.context["field"]), description=error.message
        )
        _pack(status, error_details_pb2.BadRequest(field_violations=[violation]))
    hints = hints_of(error)
    if hints:
        links = [error_details_pb2.Help.Link(description=hint) for hint in hints]
        _pack(status, error_details_pb2.Help(links=links))
    return status


def to_metadata(error: BlockdError) -> Metadata:
    """The trailing metadata of a call that fails with `error`."""
    return ((DETAILS_KEY, to_status(error).SerializeToString()),)


def from_rpc_error(call: grpc.aio.AioRpcError, peer: str = "") -> BlockdError:
    """The error that the server raised; for a failure on the way, LinkLost or Timeout.

    peer: whom the caller spoke to, for the line of a failure on the way.
    """
    status = _status_of(call)
    if status is not None:
        error = _from_status(status)
        if error is not None:
            return error
    text = call.details() or call.code().name
    where = f"{peer}: " if peer else ""
    if call.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Timeout(f"{where}no answer within the deadline")
    if call.code() is grpc.StatusCode.UNAVAILABLE:
        return LinkLost(f"{where}{text}")
    return BlockdError(f"{where}{text}", grpc=call.code().name)


def carries_error(call: grpc.aio.AioRpcError) -> bool:
    """Whether a blockd server answered with an error, rather than the transport failing."""
    status = _status_of(call)
    return status is not None and _from_status(status) is not None


def _pack(status: status_pb2.Status, detail: Message) -> None:
    packed = Any()
    packed.Pack(detail)
    status.details.append(packed)


def _status_of(call: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    trailing = cast(Iterable[tuple[str, str | bytes]], call.trailing_metadata() or ())
    for key, value in trailing:
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _from_status(status: status_pb2.Status) -> BlockdError | None:
    """None when no ErrorInfo of blockd is among the details."""
    info, hints = error_details_pb2.ErrorInfo(), error_details_pb2.Help()
    found = False
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            found = detail.Unpack(info) and info.domain == DOMAIN
        elif detail.Is(error_details_pb2.Help.DESCRIPTOR):
            detail.Unpack(hints)
    if not found:
        return None
    error = make_error(info.reason, status.message)
    error.context = dict(info.metadata)
    for link in hints.links:
        error.add_note(link.description)
    return error
