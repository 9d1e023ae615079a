"""How `blockd store check` and `blockd store dump` print for people. Documents: core.pyi."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blockd.cli.blockctl_output import print_facts, print_line, print_table

Document = dict[str, Any]

PLACES = ("volume_id", "segment", "chunk", "block", "page", "copy", "slot", "lsn")
ALIKE_MAX = 3
DETAILS = ("entries", "crcs")  # lists within a row: each a line below the table's


def print_report(path: Path, report: Document, *, data: bool) -> None:
    """The verdict last: it is what stays on the screen."""
    print_facts(
        [
            ("store", report["store_id"]),
            ("cluster", report["cluster_id"]),
            ("metadata pages", str(report["metadata_pages"])),
            ("journal batches", str(report["journal_batches"])),
            ("segments", str(report["segments"])),
            ("chunks", str(report["chunks"])),
            ("data", f"{report['blocks_verified']} blocks" if data else "not read (--data)"),
        ]
    )
    for heading, key in (("note", "notes"), ("repaired", "repaired"), ("problem", "problems")):
        print_findings(heading, report[key])
    hidden = report["problem_count"] - len(report["problems"])
    if hidden > 0:
        print(f"and {hidden} problems more")
    if report["sound"]:
        print_line(f"[green]{path} is sound[/]")
        return
    opens = "it opens all the same" if report["opens"] else "it will not open"
    print_line(f"[red]{path}: {report['problem_count']} problems; {opens}[/]")


def print_findings(heading: str, findings: Sequence[Document]) -> None:
    """The first few of a kind: one damaged page can make a thousand slots look wrong."""
    kinds: dict[tuple[str, str], list[Document]] = {}
    for finding in findings:
        kind = (finding["structure"], re.sub(r"\d+", "", finding["what"]))
        kinds.setdefault(kind, []).append(finding)
    for (structure, _), alike in kinds.items():
        for finding in alike[:ALIKE_MAX]:
            print_finding(heading, finding)
        if len(alike) > ALIKE_MAX:
            print(f"{heading}: {structure}: {len(alike) - ALIKE_MAX} more like this (-o json)")


def print_finding(heading: str, finding: Document) -> None:
    """What, where, and what to do: three lines."""
    print(f"{heading}: {finding['structure']}: {finding['what']}")
    where = [f"{key.removesuffix('_id')} {finding[key]}" for key in PLACES if key in finding]
    if "device_offset_bytes" in finding:
        where.append(f"byte {finding['device_offset_bytes']} of the device")
    if where:
        print(f"  where: {', '.join(where)}")
    print(f"  to do: {finding['advice']}")


def print_dump(document: Document) -> None:
    """Each structure under its name."""
    for name, rows in document.items():
        print(f"{name}:")
        if name in ("superblock", "checkpoint"):
            for row in rows:
                print_facts([(key, str(value)) for key, value in row.items()])
        elif any(key in row for row in rows for key in DETAILS):
            print_rows_with_details(rows)
        else:
            columns = list(rows[0]) if rows else []
            print_table(columns, [[str(value) for value in row.values()] for row in rows], "none")


def print_rows_with_details(rows: Sequence[Document]) -> None:
    """Batches with their entries, chunks with their checksums."""
    for row in rows:
        print(line_of({key: value for key, value in row.items() if key not in DETAILS}))
        for entry in row.get("entries", []):
            print(f"    {line_of(entry)}")
        if "crcs" in row:
            print(f"    {' '.join(row['crcs'])}")


def line_of(facts: Document) -> str:
    """On one line."""
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in facts.items())
