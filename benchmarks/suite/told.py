# SPDX-License-Identifier: Apache-2.0
"""A plugin of pytest that tells of each test when it is done: what is cut off later has told what failed."""

from __future__ import annotations

import json

import pytest

# Before what is for programs.
MARK = "@@ "
_reporters = []


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    """Once there is a reporter; only in the process that reports, for workers have no terminal."""
    if reporter := config.pluginmanager.get_plugin("terminalreporter"):
        _reporters.append(reporter)


def pytest_runtest_logreport(report):
    """One line for each test, and for whatever failed before or after it."""
    if report.when == "call" or report.failed:
        told = {"test": report.nodeid, "outcome": report.outcome, "why": report.longreprtext if report.failed else ""}
        for reporter in _reporters:
            reporter.write_line(MARK + json.dumps(told))
