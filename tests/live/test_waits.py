"""A primary that its keeper hears and its standbys have lost: nobody is promoted, and it says why commits wait."""

import signal
import time

import pytest
from test_ha import begun, by_name, herd, stop_all, streaming, until  # noqa: F401

pytestmark = pytest.mark.beside


def test_waiting_commits_are_told(herd):  # noqa: F811
    """By both standbys that stand still."""
    begun(herd)
    standbys = [by_name(herd, name) for name in "bc"]
    before = herd.log().count("(F28)")  # until the first standby streamed commits waited as well
    try:
        for standby in standbys:
            stop_all(standby, signal.SIGSTOP)
        until(herd, lambda: herd.log().count("(F28)") > before, 30, "the reason")
        said = [line for line in herd.log().splitlines() if "(F28)" in line][-1]
        assert "0 of the 1 standbys" in said and "c is" in said, said
        time.sleep(3)
        assert herd.primary() == ("a", 1)
    finally:
        for standby in standbys:
            stop_all(standby, signal.SIGCONT)
    again = herd.log().rindex("(F28)")
    until(herd, lambda: "commits have the standbys again" in herd.log()[again:], 30, "the end of it")
    streaming(herd, "bc")
    assert herd.log().count("(F28)") == before + 1
