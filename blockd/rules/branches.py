"""What branches are called. No I/O, no clock."""

BRANCH_PREFIX = "fenced-"
NAME_LENGTH_MAX = 63


def branch_name(writer_epoch: int, number: int) -> str:
    """Of the number-th branch of what was written under that epoch: fenced-7, fenced-7-2, ..."""
    return f"{BRANCH_PREFIX}{writer_epoch}" + (f"-{number}" if number > 1 else "")


def branch_volume_name(volume: str, branch: str) -> str:
    """Of the volume that a branch is: VOLUME.BRANCH, cut to what a name may have."""
    return f"{volume[: NAME_LENGTH_MAX - 1 - len(branch)]}.{branch}"
