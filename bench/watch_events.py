"""Changes of pods at the speed the server takes them."""

import json
import time

from benchmarks import median, rounded, spread
from kube_peer import PODS, Cluster, Unmeasured, Watcher

TITLE = f"up to 20,000 changes among {PODS:,} pods of 16 kB at the server's speed, against client-go's SharedInformer"
GOAL = "CPU per event <= 1/5 of client-go's with JSON; delay p99 no worse"
ROUNDS = 5
UPDATES = 4000
ALL = (
    ("full", "ours, whole objects"),
    ("metadata", "ours, metadata only"),
    ("json", "client-go, JSON"),
    ("protobuf", "client-go, protobuf"),
)


def start(bench, cluster):
    config = cluster.plane.kubeconfig
    ours = bench.program("bench_watch")
    return {
        mode: Watcher(
            cluster, *((ours, config, mode) if text.startswith("ours") else (cluster.informer, config, "watch", mode))
        )
        for mode, text in ALL
    }


def one_round(cluster, watchers, updates, seconds):
    """All clients see the same changes at the same time: CPU us per event, p50 and p99 of the delay in ms."""
    before = {mode: watcher.cpu_now_ms() for mode, watcher in watchers.items()}
    made = json.loads(cluster.run("update", str(updates), str(PODS), str(seconds)))
    updates = made["changes"]
    found = {}
    for mode, watcher in watchers.items():
        events, deadline = [], time.monotonic() + 30
        while True:
            events.append(watcher.ask())
            if sum(e["events"] for e in events) >= updates:
                break
            if time.monotonic() > deadline:
                raise Unmeasured(f"{mode} saw {events} of {updates} changes")
            time.sleep(0.05)
        most = max(events, key=lambda e: e["events"])
        cpu = (watcher.cpu_now_ms() - before[mode]) * 1000 / updates
        found[mode] = (cpu, most["p50_us"] / 1000, most["p99_us"] / 1000, most["max_us"] / 1000)
    return made, found


def measure(bench):
    cluster = Cluster(bench)
    watchers = start(bench, cluster)
    time.sleep(3)  # what reading everything left to do
    one_round(cluster, watchers, 500, 5)
    taken, speeds, changes = [], [], 0
    for i in range(ROUNDS * (5 if bench.full else 1)):
        bench.note(f"round {i + 1}")
        made, found = one_round(cluster, watchers, UPDATES, 120 if bench.full else 20)
        speeds.append(made["changes"] / made["seconds"])
        changes += made["changes"]
        taken.append(found)
        bench.sample_load()
    return report(bench, taken, speeds, changes)


def report(bench, taken, speeds, changes):
    rows, mid, ratios = [], {}, {}
    for mode, text in ALL:
        columns = [[t[mode][i] for t in taken] for i in range(4)]
        mid[mode] = [median(c) for c in columns]
        ratios[mode] = [t["json"][0] / t[mode][0] for t in taken]
        cpu, _, p99, most = columns
        rows.append(
            (text, f"{mid[mode][0]:.0f}", f"{min(cpu):.0f}..{max(cpu):.0f}", f"{median(ratios[mode]):.1f}",
             f"{mid[mode][1]:.1f}", f"{mid[mode][2]:.1f}", f"{min(p99):.1f}..{max(p99):.1f}", f"{max(most):.0f}")
        )  # fmt: skip
    head = (f"median of {len(taken)} rounds", "CPU us/event", "spread", "JSON / it", "delay p50 ms", "p99 ms", "spread",
            "max")  # fmt: skip
    bench.table(head, rows)
    print(f"{changes} changes, {median(speeds):.0f}/s, seen by all; delay: from before the request to the callback")
    return {
        "ours": rounded(mid["full"][0]),
        "peer": rounded(mid["json"][0]),
        "unit": "us of CPU per event, whole objects",
        "ratio": rounded(median(ratios["full"])),
        "spread": spread(ratios["full"]),
        "ratio_metadata_only": rounded(median(ratios["metadata"])),
        "ratio_protobuf": rounded(mid["protobuf"][0] / mid["full"][0]),
        "p99_ms": rounded(mid["full"][2]),
        "peer_p99_ms": rounded(mid["json"][2]),
        "changes": changes,
        "changes_per_second": rounded(median(speeds)),
    }
