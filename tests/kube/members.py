"""What is known of the instances of a shard of several: by their pods, and by their keeper."""

import json


def pods(rig):
    found = rig.list("Pod", labelSelector="shardherd.io/database=shop")
    return {p["metadata"]["name"]: p for p in found}


def role(pod):
    return pod["metadata"]["labels"].get("shardherd.io/role")


def primaries(rig):
    return [name for name, pod in pods(rig).items() if role(pod) == "primary"]


def is_ready(pod):
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def kept(rig):
    """What the keeper knows of the members, by name."""
    return {i["name"]: i.get("member") or {} for i in rig.public("/v1/instances")["items"]}


def whole(rig, count=3, shard=None):
    """One primary that is marked, and standbys that stream, of this shard or of all there are: the primary's name."""
    mine = f"shop-{shard}-" if shard else ""
    try:
        known, seen = ({n: x for n, x in found.items() if n.startswith(mine)} for found in (kept(rig), pods(rig)))
    except (AssertionError, OSError, TypeError):
        return None  # another manager is about to lead
    marked = [name for name, pod in seen.items() if role(pod) == "primary"]
    standbys = [pod for pod in seen.values() if role(pod) == "standby"]
    streams = [m for m in known.values() if m.get("streams")]
    ready = all(is_ready(p) and not p["metadata"].get("deletionTimestamp") for p in seen.values())
    right = len(seen) == count and len(standbys) == len(streams) == count - 1 and ready
    one = [name for name, m in known.items() if m.get("role") == "primary" or m.get("primary")]
    return marked[0] if right and len(marked) == 1 and one == marked else None


def wait_whole(rig, timeout=90, count=3, shard=None):
    def say():
        return json.dumps([kept(rig), {n: role(p) for n, p in pods(rig).items()}], indent=1)

    try:
        return rig.wait(lambda: whole(rig, count, shard), timeout, f"a primary and {count - 1} standbys")
    except TimeoutError as error:
        raise TimeoutError(f"{error}\n{say()}\n{rig.manager_logs()[-8000:]}") from None
