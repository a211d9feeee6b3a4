"""The manager's end has a bound: what cannot be waited for is named, and the pod ends within its grace period."""

import os
import signal
import time

import pytest
from conftest import wait_until
from rig import Rig

pytestmark = [pytest.mark.slow, pytest.mark.waits]  # the bound is 20 s


def test_a_part_that_does_not_close_is_named(shardherd, tmp_path):
    secret = tmp_path / "password"
    os.mkfifo(secret)  # whoever reads it waits for ever, on a worker
    rig = Rig(shardherd, tmp_path / "rig")
    rig.settings += ["store.kind=etcd", "store.etcd_endpoints=http://127.0.0.1:9", f"store.etcd_password_file={secret}"]
    rig.start(wait=False)
    wait_until(lambda: "store=etcd" in rig.tail(), 20, "the manager reads its secrets")
    began = time.monotonic()
    rig.process.send_signal(signal.SIGTERM)
    assert rig.wait_dead(28) == 0
    assert 18 < time.monotonic() - began
    assert "without waiting for a part any longer" in rig.tail() and "files of secrets" in rig.tail()
