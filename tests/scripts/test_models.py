"""The models in docs/protocol, checked by spin; and each with every planted fault, which must be found."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODELS = {
    "move": ["GATE_FIRST", "NO_MARKER", "OTHER_SESSION", "NO_TERM", "NOT_FLUSHED", "GATE_REUSED", "NOT_BURNED"],
    "failover": [
        "NO_QUORUM",
        "NO_COMPARE",
        "NOT_RECORDED",
        "FORGETS",
        "EARLY_READ",
        "CHOSEN_LATE",
        "TOO_EARLY",
    ],
    "lease": ["NO_WAIT", "NO_COMPARE", "NO_PROOF", "FROM_ARRIVAL"],
    "rollback": [
        "NO_ORIGIN",
        "NOT_FLUSHED",
        "BACKWARD",
        "NO_PROOF",
        "NO_TERM",
        "NO_TIMELINE",
        "NO_MARKER",
        "NOT_AWAITED",
        "NOT_KEPT",
        "NO_REFUSAL",
        "BLIND",
        "FORGETS",
        "GIVES_IN",
        "BAKES_ON",
    ],
}


def spin():
    found = shutil.which("spin", path=f"{os.environ['PATH']}:{ROOT / 'build' / 'tools' / 'usr' / 'bin'}")
    if found is None:
        pytest.fail("spin is missing: scripts/install-deps")
    return found


def search(model, fault, directory):
    """All states; returns errors found and states seen."""
    define = [f"-D{fault}"] if fault else []
    source = ROOT / "docs" / "protocol" / f"{model}.pml"
    subprocess.run([spin(), *define, "-a", source], cwd=directory, check=True, capture_output=True)
    subprocess.run(["cc", "-O2", "-DSAFETY", "-DNOREDUCE", "-o", "pan", "pan.c"], cwd=directory, check=True)
    done = subprocess.run(["./pan", "-m2000000"], cwd=directory, capture_output=True, text=True, timeout=300)
    assert "max search depth too small" not in done.stdout, done.stdout
    (errors,) = re.findall(r"errors: (\d+)", done.stdout)
    (states,) = re.findall(r"(\d+) states, stored", done.stdout)
    return int(errors), int(states), done.stdout


@pytest.mark.parametrize("model", MODELS)
def test_the_model_keeps_its_claims(model, tmp_path):
    errors, states, told = search(model, None, tmp_path)
    print(f"{model}: {states} states")
    assert errors == 0, told
    assert states > 100_000, states  # it would also keep them if nothing could happen


@pytest.mark.parametrize(("model", "fault"), [(model, fault) for model, faults in MODELS.items() for fault in faults])
def test_planted_faults_are_found(model, fault, tmp_path):
    errors, _, told = search(model, fault, tmp_path)
    assert errors > 0, f"{fault} was not noticed"
    assert "assertion violated" in told, told  # and not because somebody is stuck


@pytest.mark.parametrize("model", MODELS)
def test_every_fault_of_the_model_is_planted(model):
    text = (ROOT / "docs" / "protocol" / f"{model}.pml").read_text()
    assert sorted(set(re.findall(r"#ifn?def (\w+)", text))) == sorted(MODELS[model])
