"""Identifiers: RFC 4122 UUIDs, written as lower-case text between processes."""

from uuid import UUID, uuid4

from blockd.model.errors import InvalidArgument


def new_id() -> UUID:
    """A fresh random id."""
    return uuid4()


def parse_id(text: str, what: str = "id") -> UUID:
    """The UUID that `text` spells. Raises InvalidArgument, naming `what`, when it spells none."""
    try:
        return UUID(text)
    except (ValueError, AttributeError, TypeError):
        raise InvalidArgument(f"{what} is not a UUID: {text!r}") from None


def is_id(text: str) -> bool:
    """Whether `text` spells a UUID."""
    try:
        UUID(text)
    except ValueError:
        return False
    return True
