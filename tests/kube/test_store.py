"""The suite that every back end of the store must pass, against a real API server."""

import os
import subprocess

from kube import build_folder


def test_the_suite_on_config_maps(plane):
    run = subprocess.run(
        [build_folder() / "tests" / "kube_store_kubernetes"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "SHARDHERD_TEST_KUBECONFIG": str(plane.kubeconfig)},
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
