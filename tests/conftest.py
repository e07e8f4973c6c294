"""Says aloud at the end of a run what this machine could not test."""

from tests.cluster.host import why_no_hosts


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", ())
    if any("tests/cluster/" in report.nodeid for report in skipped) and (reason := why_no_hosts()):
        terminalreporter.section("NOT TESTED HERE", red=True, bold=True)
        terminalreporter.line(
            f"several hosts and bad networks: {reason}; `make cluster`, of `make nightly`, must run"
        )
