"""Outcomes of fixtures as JUnit XML, which every CI system reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from ebpfaudit.output.judgement import difference_text
from ebpfaudit.stories.fixtures import Outcome

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, not even escaped."""


def junit_xml(outcomes: Mapping[str, Sequence[Outcome]], errors: Mapping[str, Mapping[str, str]]) -> bytes:
    """A suite for each profile, a case for each fixture; `errors`: by profile and file, what could not be judged."""
    root = ElementTree.Element("testsuites", name="ebpfaudit profile test")
    for profile in dict.fromkeys((*outcomes, *errors)):
        _add_suite(root, profile, outcomes.get(profile, ()), errors.get(profile, {}))
    for key in ("tests", "failures", "errors"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in root)))
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8")
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + text + b"\n"


def _add_suite(
    root: ElementTree.Element, profile: str, outcomes: Sequence[Outcome], errors: Mapping[str, str]
) -> None:
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        name=_clean(profile),
        tests=str(len(outcomes) + len(errors)),
        failures=str(sum(not outcome.passed for outcome in outcomes)),
        errors=str(len(errors)),
        skipped="0",
        time=_seconds(sum(outcome.seconds for outcome in outcomes)),
    )
    for outcome in outcomes:
        name = f"{outcome.fixture.name}: {outcome.fixture.title}"
        case = ElementTree.SubElement(
            suite, "testcase", classname=_clean(profile), name=_clean(name), time=_seconds(outcome.seconds)
        )
        if not outcome.passed:
            why = "; ".join(outcome.problems)
            failure = ElementTree.SubElement(case, "failure", message=_clean(why), type="verdicts")
            failure.text = _clean(f"{outcome.fixture.path}\n{difference_text(outcome)}")
    for file, problem in errors.items():
        case = ElementTree.SubElement(
            suite, "testcase", classname=_clean(profile), name=_clean(file), time="0"
        )
        error = ElementTree.SubElement(case, "error", message="it could not be judged", type="fixture")
        error.text = _clean(problem)


def _seconds(seconds: float) -> str:
    return f"{seconds:.6f}"


def _clean(text: str) -> str:
    r"""`text` with what XML cannot hold as `\xNN`."""
    return _FORBIDDEN.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return "".join(f"\\x{byte:02x}" for byte in found[0].encode("utf-8", "surrogatepass"))
