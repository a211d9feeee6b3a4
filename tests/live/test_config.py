"""Configuration as files: the JSON Schemas agree with the program, and a ConfigMap's swap of links is a reload."""

import copy
import json
import os
import subprocess
import time

import jsonschema_rs
import pytest
import yaml
from conftest import REPO, wait_until
from rig import Rig

pytestmark = pytest.mark.beside

CONFIG = REPO / "config"
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("SHARDHERD_")}


def validator(name):
    return jsonschema_rs.validator_for(json.loads((CONFIG / name).read_text()))


def program_takes(shardherd, path, kind):
    words = [str(path)] if kind == "database" else ["-c", str(path)]
    done = subprocess.run([shardherd, "check-config", *words], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode in (0, 2), done
    return done.returncode == 0, done.stderr


def changed(document, path, value):
    document = copy.deepcopy(document)
    at = document
    for name in path[:-1]:
        at = at.setdefault(name, {}) if isinstance(at, dict) else at[name]
    at[path[-1]] = value
    return document


# What to change in a sample, to what, and whether that is good.
MANAGER = [
    (("log", "level"), "debug", True),
    (("log", "level"), "loud", False),
    (("log", "levle"), "debug", False),
    (("lgo",), {}, False),
    (("listen", "public_port"), 0, True),
    (("listen", "public_port"), 65536, False),
    (("listen", "public_port"), -1, False),
    (("listen", "public_port"), [1], False),
    (("discovery", "interval"), "250ms", True),
    (("discovery", "interval"), "soon", False),
    (("discovery", "enabled"), "perhaps", False),
    (("discovery", "static"), [{"name": "a", "host": "h", "user": "u"}], True),
    (("discovery", "static"), [{"name": "a", "host": "h", "user": "u", "passwrod_file": "/x"}], False),
    (("discovery", "static"), [{"name": "a", "host": "h", "user": "u", "password": "x"}], False),
    (("polling", "sizes"), "off", True),
    (("polling", "guards"), "30s", True),
    (("balance", "split"), "recommend", True),
    (("balance", "split"), "sometimes", False),
    (("balance", "threshold"), 2500, True),
    (("balance", "window"), 601, False),
    (("balance",), [], False),
]
DATABASE = [
    (("spec", "shards"), 4, True),
    (("spec", "shards"), 0, False),
    (("spec", "shards"), "two", False),
    (("spec", "shards"), [{"name": "s1", "range": f"{-(2**63)}..{2**63 - 1}", "instance": "a"}], True),
    (("spec", "tables"), [], False),
    (("spec", "tables"), [{"name": "public.t"}], False),
    (("spec", "tabels"), [], False),
    (("spec", "balance"), {"split": "auto", "mergeAfter": "10m", "maxShards": 8}, True),
    (("spec", "balance"), {"merge_after": "10m"}, False),
    (("kind",), "Deployment", False),
    (("apiVersion",), "v1", False),
    (("metadata", "name"), "No Good", False),
    (("metadata",), {}, False),
]


@pytest.mark.parametrize(
    ("kind", "sample", "schema", "cases"),
    [
        ("manager", "shardherd.yaml", "shardherd.schema.json", MANAGER),
        ("database", "shop.yaml", "database.schema.json", DATABASE),
    ],
    ids=["manager", "database"],
)
def test_schema_and_program_agree(shardherd, work_dir, kind, sample, schema, cases):
    document, rules = yaml.safe_load((CONFIG / sample).read_text()), validator(schema)
    path = work_dir / "file.yaml"
    for where, value, good in [((), None, True), *cases]:
        tried = changed(document, where, value) if where else document
        path.write_text(yaml.safe_dump(tried))
        assert rules.is_valid(tried) == good, (where, value, [e.message for e in rules.iter_errors(tried)])
        taken, said = program_takes(shardherd, path, kind)
        assert taken == good, (where, value, said)


def test_what_it_prints_fits_the_schema(shardherd):
    done = subprocess.run(
        [shardherd, "check-config", "--print"], capture_output=True, text=True, check=True, env=ENVIRONMENT
    )
    printed = yaml.safe_load(done.stdout)
    assert "polling" in printed
    rules = validator("shardherd.schema.json")
    assert rules.is_valid(printed), [e.message for e in rules.iter_errors(printed)]


def test_config_map(shardherd):
    """Kubernetes changes a mounted ConfigMap by swapping the link ..data to a new directory; no signal comes."""
    rig = Rig(shardherd, f"/tmp/shardherd-configmap-{os.getpid()}")
    mount = rig.directory / "mount"

    def publish(number, text):
        folder = mount / f"..2026_11_21_{number}"
        folder.mkdir(parents=True)
        (folder / "shardherd.yaml").write_text(text)
        os.utime(folder / "shardherd.yaml", (1.7e9, 1.7e9))  # its time says nothing
        (mount / "..data_tmp").symlink_to(folder.name)
        (mount / "..data_tmp").rename(mount / "..data")

    try:
        publish(1, "log:\n  level: info\n")
        rig.config = mount / "shardherd.yaml"
        rig.config.symlink_to("..data/shardherd.yaml")
        rig.settings.append("runtime.kind=none")
        rig.start()
        assert rig.fetch("/v1/instances")["items"] == []
        entry = "discovery:\n  static:\n    - {name: far, host: 127.0.0.1, port: 1, user: nobody}\n"
        publish(2, "log:\n  level: info\n" + entry)
        wait_until(lambda: [i["name"] for i in rig.fetch("/v1/instances")["items"]] == ["far"], what="the new entry")
        publish(3, "log:\n  levle: info\n")
        wait_until(lambda: "levle" in rig.fetch("/readyz?verbose", raw=True), what="the fault to be shown")
        assert [i["name"] for i in rig.fetch("/v1/instances")["items"]] == ["far"], "the old configuration stays"
        failed = "shardherd_config_reload_errors_total 1\n"
        assert failed in rig.fetch("/metrics", port="metrics", raw=True)
        time.sleep(3)  # further looks at the same bad file are no further failures
        assert failed in rig.fetch("/metrics", port="metrics", raw=True)
        publish(4, "log:\n  level: info\n")
        wait_until(lambda: rig.fetch("/v1/instances")["items"] == [], what="the entry to go")
        assert "levle" not in rig.fetch("/readyz?verbose", raw=True)
        assert rig.stop() == 0
    finally:
        rig.clean_up()
