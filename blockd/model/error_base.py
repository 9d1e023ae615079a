"""What every error of blockd has in common; the errors themselves are in error_table.py.

An error is raised with the line a user reads, and with the facts that the raising layer alone knows
(volume, replica, offset, ...) as keywords. Each layer adds its own and passes the cause on with
`raise ... from`.
"""

from typing import ClassVar


class BlockdError(Exception):
    """The base of all errors of the table; itself raised only for a code that is not in the table.

    code: number in cext/include/blockd/errors.def, as sent between peers.
    kind: request (the caller mends it), stale (refresh the map, retry), busy (back off, retry),
        medium (read another replica), unknown (neither done nor failed), config (an operator acts).
    nbd_errno: name of the errno that an NBD client gets. grpc_status: name of a grpc.StatusCode.
    exit_code: of a command that ends with this error. meaning: the table's words.
    """

    code: ClassVar[int] = 0xFFFF
    kind: ClassVar[str] = "unknown"
    nbd_errno: ClassVar[str] = "EIO"
    grpc_status: ClassVar[str] = "UNKNOWN"
    exit_code: ClassVar[int] = 1
    meaning: ClassVar[str] = "an error of a newer version"

    def __init__(self, message: str = "", **context: object) -> None:
        super().__init__(message)
        self.message = message or self.meaning
        self.context = context

    def __str__(self) -> str:
        if not self.context:
            return self.message
        facts = ", ".join(f"{name} {value}" for name, value in self.context.items())
        return f"{self.message} ({facts})"

    @property
    def name(self) -> str:
        """The error's name in the table, which is its class's."""
        return type(self).__name__
