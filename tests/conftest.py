"""One thread for each process of the tests; and what this machine could not test is said aloud at the end."""

import os

from tests.cluster.host import why_no_hosts

# Files of tests run at once, and many start processes of their own. With a thread for each core in all of them the
# threads wait for each other in loops, which costs several times what they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", ())
    if any("tests/cluster/" in report.nodeid for report in skipped) and (reason := why_no_hosts()):
        terminalreporter.section("NOT TESTED HERE", red=True, bold=True)
        terminalreporter.line(
            f"several hosts and bad networks: {reason}; `make cluster`, of `make nightly`, must run"
        )
