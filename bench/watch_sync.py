"""The first reading of 10,000 pods, and what it leaves in memory."""

import time

from benchmarks import median, rounded, spread
from kube_peer import PODS, Cluster, Watcher

TITLE = f"{PODS:,} pods of 16 kB read and kept in step, against client-go's SharedInformer"
GOAL = (
    "CPU <= 1/10 of client-go's with JSON and <= 1/2 with protobuf when asking for what we need; "
    "memory per pod <= 1/20; RSS <= 32 MiB"
)
ROUNDS = 5
SETTLE = 2  # seconds; client-go's heap has been collected by then
OURS = (
    ("full", "ours, whole objects"),
    ("metadata", "ours, metadata only"),
    ("labelled", "ours, labelled pods only"),
)
PEERS = (
    ("json", "client-go, JSON"),
    ("protobuf", "client-go, protobuf"),
    ("metadata", "client-go, metadata only (protobuf)"),
)


def sync(bench, cluster, argv):
    """CPU ms, seconds, peak and settled MiB of one client that starts, reads everything and stays."""
    watcher = Watcher(cluster, *argv)
    time.sleep(SETTLE)
    facts = watcher.ask()
    result = (watcher.cpu_ms, watcher.seconds, watcher.peak_mib(), watcher.resident_mib(), watcher.objects, facts)
    watcher.end()
    bench.sample_load()
    return result


def commands(bench, cluster):
    ours, config = bench.program("bench_watch"), cluster.plane.kubeconfig
    return {
        **{("ours", mode): (text, (ours, config, mode)) for mode, text in OURS},
        **{("peer", mode): (text, (cluster.informer, config, "watch", mode)) for mode, text in PEERS},
    }


def measure(bench):
    cluster = Cluster(bench)
    what = commands(bench, cluster)
    runs = {key: [] for key in what}
    empty = empty_mib(bench, what)
    for i in range(ROUNDS * (3 if bench.full else 1)):
        bench.note(f"round {i + 1}")
        for key, (_, argv) in what.items():
            runs[key].append(sync(bench, cluster, argv))
    return report(bench, cluster, what, runs, empty)


def empty_mib(bench, what):
    """What each program takes when there is nothing to keep."""
    from control_plane import ControlPlane

    with ControlPlane(bench.directory / "empty") as plane:
        found = {}
        for key, (_, argv) in what.items():
            watcher = Watcher(type("Empty", (), {"bench": bench}), argv[0], plane.kubeconfig, *argv[2:])
            time.sleep(1)
            found[key] = watcher.resident_mib()
            watcher.end()
    return found


def report(bench, cluster, what, runs, empty):
    mid = {key: [median([run[i] for run in taken]) for i in range(4)] for key, taken in runs.items()}
    json_cpu = [run[0] for run in runs["peer", "json"]]
    proto_cpu = [run[0] for run in runs["peer", "protobuf"]]
    per_pod = {key: (mid[key][3] - empty[key]) * 1024 / runs[key][0][4] for key in runs}
    rows, ratios = [], {}
    for key, (text, _) in what.items():
        mine = [run[0] for run in runs[key]]
        ratios[key] = [[other / m for other, m in zip(peer, mine, strict=True)] for peer in (json_cpu, proto_cpu)]
        rows.append(
            (text, f"{mid[key][0]:.0f}", f"{min(mine):.0f}..{max(mine):.0f}", f"{median(ratios[key][0]):.1f}",
             f"{median(ratios[key][1]):.1f}", f"{mid[key][1]:.1f}", f"{mid[key][2]:.1f}", f"{mid[key][3]:.1f}",
             f"{empty[key]:.1f}", f"{per_pod[key]:.2f}")
        )  # fmt: skip
    bench.table(
        (f"median of {len(json_cpu)} runs", "CPU ms", "spread", "JSON / it", "protobuf / it", "s", "peak MiB",
         "RSS MiB", "empty MiB", "KiB/pod"), rows,
    )  # fmt: skip
    errors = sum(run[5]["errors"] for mode, _ in OURS for run in runs["ours", mode])
    print(f"pods of {cluster.bytes} bytes as JSON; requests of ours that failed: {errors}")
    needed = ratios["ours", "metadata"]
    return {
        "ours": rounded(mid["ours", "metadata"][0]),
        "peer": rounded(mid["peer", "json"][0]),
        "unit": "ms of CPU to read all pods; ours: metadata only",
        "ratio": rounded(median(needed[0])),
        "spread": spread(needed[0]),
        "ratio_protobuf": rounded(median(needed[1])),
        "ratio_whole_objects": rounded(median(ratios["ours", "full"][0])),
        "ratio_labelled": rounded(median(ratios["ours", "labelled"][0])),
        "ratio_metadata_only_to_metadata_only": rounded(mid["peer", "metadata"][0] / mid["ours", "metadata"][0]),
        "kib_per_pod": rounded(per_pod["ours", "full"]),
        "memory_ratio": rounded(per_pod["peer", "json"] / per_pod["ours", "full"]),
        "memory_ratio_metadata": rounded(per_pod["peer", "metadata"] / per_pod["ours", "metadata"]),
        "rss_mib": rounded(mid["ours", "full"][3]),
        "pod_bytes": cluster.bytes,
    }
