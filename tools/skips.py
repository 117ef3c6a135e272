#!/usr/bin/env python3
"""Refuses a test run that proves less than it seems: reads pytest's JUnit report for skips.

A skipped test passes. That is right on a developer's machine without root or vectors, and wrong
where everything is there: then a skip means that something broke which the test cannot tell.
"""

from __future__ import annotations

import argparse
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """One test of a report; `skipped` has the reason where it was skipped."""

    name: str
    skipped: str | None


def read(report: str) -> list[Outcome]:
    """Return the tests of a JUnit report, by dotted name."""
    outcomes = []
    for case in ElementTree.fromstring(report).iter("testcase"):
        parts = (case.get("classname", ""), case.get("name", ""))
        skip = case.find("skipped")
        # A module that skips itself is reported without a class: its message alone is "collection
        # skipped", the reason is in the text.
        reason = None if skip is None else f"{skip.get('message', '')} {skip.text or ''}".strip()
        outcomes.append(Outcome(".".join(filter(None, parts)), reason))
    return outcomes


def refused(
    outcomes: Sequence[Outcome], folders: Sequence[str], reasons: Sequence[str]
) -> list[str]:
    """Return one line for each test or folder that should have run and did not.

    `folders` are dotted prefixes where nothing may be skipped and something must run; a skip whose
    reason contains a word of `reasons` is refused anywhere.
    """
    lines = []
    for one in outcomes:
        if one.skipped is None:
            continue
        if any(one.name.startswith(f"{folder}.") for folder in folders) or any(
            word in one.skipped for word in reasons
        ):
            lines.append(f"{one.name} was skipped: {one.skipped}")
    for folder in folders:
        if not any(o.name.startswith(f"{folder}.") and o.skipped is None for o in outcomes):
            lines.append(f"{folder}: no test ran")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is refused; return 1 if anything is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("report", type=Path, help="what pytest --junitxml wrote")
    parser.add_argument("--refuse", action="append", default=[], metavar="tests.FOLDER",
                        help="nothing in it may be skipped, and something must run")  # fmt: skip
    parser.add_argument("--refuse-reason", action="append", default=[], metavar="WORD",
                        help="no skip may have it in its reason")  # fmt: skip
    options = parser.parse_args(arguments)
    text = options.report.read_text(encoding="utf-8")
    if not text:
        print("skips: the report is empty: pytest did not run to its end", file=sys.stderr)
        return 1
    lines = refused(read(text), options.refuse, options.refuse_reason)
    for line in lines:
        print(f"skips: {line}", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
