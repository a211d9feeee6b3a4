"""A primary's container, pod and node are killed in the test cluster, ours beside CloudNativePG: for how long nobody
writes through the read-write service, and what is lost."""

import base64
import contextlib
import functools
import os
import select
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import failover_figures
import psycopg
from benchmarks import ROOT, Unmeasured, median, rounded, spread
from failover_figures import attempt, failures_of, rows_of
from failover_writers import ROUTE_EACH_S, Writer, longest_gap, lost_rows, shut

TITLE = "the primary's container, pod and node killed in the test cluster, beside CloudNativePG: seconds without writes"
GOAL = "pod p50 <= 1 s, node p50 <= 6 s without waiting for NotReady, nothing lost"
PATIENCE_S = 1  # for the answer to one write, as a driver's timeout
CONNECT_S = 0.5  # for a session; a service may still lead to a pod that is gone, where nobody answers
BEFORE, AFTER = 200, 200  # acknowledged writes before a fault, and over new sessions after it
LIMIT_S = 180
WHOLE_S = 240
STEP = 10_000_000  # where writers' numbers begin: one fault's never meet another's
DATA, CONTROL = {"bench": "data"}, {"bench": "control"}
NODES = 4  # one for each instance; the last is for managers and is never killed
FAULTS = ("container killed", "pod deleted", "node killed")
ROUNDS, ROUNDS_FULL = 3, 7
PEER_ROUNDS, PEER_ROUNDS_FULL = 2, 5  # a node costs it a minute and a half
DELETE_NOW = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}


# ---- who is measured ----


class Ours:
    name, container, service, secret, database = "ours", "postgresql", "shop-s1", "shop-owner", "shop"

    def __init__(self, rig):
        from manager_rig import DATABASES, database

        self.rig = rig
        rig.must("POST", DATABASES, database(
            shards=1, instances=3, balance={"split": "off", "merge": "off"}, scheduling={"nodeSelector": DATA},
            tables=[{"name": "w", "key": "n"}], schema={"inline": "CREATE TABLE w (n bigint PRIMARY KEY);"},
        ))  # fmt: skip
        rig.wait_database(shards=1, timeout=WHOLE_S)

    def primary(self):
        from members import whole

        return whole(self.rig)


class CloudNativePG:
    """Its defaults, three instances, each on a node of its own."""

    name, container, service, secret, database = "CloudNativePG", "postgres", "peer-rw", "peer-app", "app"

    def __init__(self, rig):
        import cnpg

        self.rig, self.path = rig, f"{cnpg.CLUSTERS}/peer"
        cnpg.install(rig, CONTROL)
        spec = {"instances": 3, "imageName": cnpg.SERVER, "storage": {"size": "1Gi"},
                "affinity": {"podAntiAffinityType": "required", "nodeSelector": DATA}}  # fmt: skip
        body = {"apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "metadata": {"name": "peer"}, "spec": spec}
        # its webhooks are asked from the moment they are there, and answer a little later
        rig.wait(lambda: rig.request("POST", cnpg.CLUSTERS, body)[0] in (201, 409), 60, "a Cluster")
        rig.wait(self.primary, WHOLE_S, "CloudNativePG's cluster")
        with psycopg_inside(rig, self) as ask:
            ask("CREATE TABLE w (n bigint PRIMARY KEY)")

    def primary(self):
        """Its name when it and its standbys are well, and both of them stream."""
        from members import is_ready

        status = self.rig.must("GET", self.path).get("status", {})
        found = self.rig.list("Pod", labelSelector="cnpg.io/cluster=peer,cnpg.io/podRole=instance")
        ready = [p for p in found if is_ready(p) and not p["metadata"].get("deletionTimestamp")]
        primary = status.get("currentPrimary")
        well = "healthy" in status.get("phase", "") and status.get("targetPrimary") == primary
        if not well or len(ready) != 3 or len(found) != 3 or status.get("readyInstances") != 3:
            return None
        try:
            with psycopg_inside(self.rig, self) as ask:
                streams = ask("SELECT count(*) FROM pg_stat_replication")[0][0]
        except psycopg.Error:
            return None
        return primary if streams == 2 else None


def conninfo(rig, cluster):
    address = rig.get("Service", cluster.service)["spec"]["clusterIP"]
    data = {key: base64.b64decode(value).decode() for key, value in rig.get("Secret", cluster.secret)["data"].items()}
    return psycopg.conninfo.make_conninfo(
        host=address, user="app", password=data["password"], dbname=cluster.database, sslmode="require"
    )


@contextlib.contextmanager
def psycopg_inside(rig, cluster):
    """ask(statement): rows, over a session in the rig's network."""
    text = conninfo(rig, cluster)
    with ThreadPoolExecutor(1, initializer=rig.namespace.join) as pool:
        connection = pool.submit(psycopg.connect, text, autocommit=True, connect_timeout=5).result()

        def ask(statement):
            def run():
                cursor = connection.execute(statement)
                return cursor.fetchall() if cursor.description else None

            return pool.submit(run).result()

        try:
            yield ask
        finally:
            connection.close()


def connect(text, patience):
    """A session within so many seconds: libpq's own timeout is not shorter than two."""
    deadline = time.monotonic() + patience
    made = psycopg.pq.PGconn.connect_start(text.encode())
    while (status := made.connect_poll()) != psycopg.pq.PollingStatus.OK:
        left = deadline - time.monotonic()
        if status == psycopg.pq.PollingStatus.FAILED or left <= 0:
            said = made.error_message.decode(errors="replace") or "no answer"
            made.finish()
            raise psycopg.OperationalError(said)
        reads = [made.socket] if status == psycopg.pq.PollingStatus.READING else []
        writes = [made.socket] if status == psycopg.pq.PollingStatus.WRITING else []
        select.select(reads, writes, [], left)
    session = psycopg.Connection(made)
    session.autocommit = True
    return session


class Application(Writer):
    """Knows the service alone: keeps its session while it is answered within PATIENCE_S, else takes another one."""

    def __init__(self, rig, cluster, first):
        self.namespace, self.text = rig.namespace, conninfo(rig, cluster)
        super().__init__(lambda: cluster.service, None, first)

    def run(self):
        self.namespace.join()
        super().run()

    def open(self):
        connection = connect(self.text, CONNECT_S)
        self.at, self.connection = self.named, connection
        self.sessions.append((time.monotonic(), self.at, len(self.times)))

    def follow(self):
        number, since = self.number, time.monotonic()
        while not self.ending:
            connection, now = self.connection, time.monotonic()
            if self.number != number or connection is None:
                number, since = self.number, now
            elif now - since > PATIENCE_S:
                shut(connection)
                since = now
            time.sleep(ROUTE_EACH_S)


# ---- one fault ----


@dataclass
class Seen:
    """What one fault did."""

    gap_s: float  # without an acknowledged write
    acknowledged: int
    lost: int
    moved: bool  # another instance is the primary
    whole_s: float  # until a primary and two standbys that stream are there, all ready, since the fault or its undoing
    node_ready: bool  # what Kubernetes said of the node when writes were back


class Figures(failover_figures.Figures):
    def well_again_s(self):
        return median([s.whole_s for s in self.seen])

    def cells(self, gaps):
        return (
            len(gaps),
            f"{median(gaps):.2f}",
            f"{min(gaps):.2f}",
            f"{max(gaps):.2f}",
            self.lost_of_all(),
            f"{sum(s.moved for s in self.seen)} of {len(gaps)}",
            f"{self.well_again_s():.1f}",
        )

    def as_json(self):
        return super().as_json() | {
            "spread_s": spread(self.gaps()),
            "moved": sum(s.moved for s in self.seen),
            "whole_p50_s": rounded(self.well_again_s()),
            "back_before_not_ready": sum(s.node_ready for s in self.seen),
        }


def strike(rig, cluster, fault, primary):
    """Returns what undoes it."""
    if fault == "container killed":
        rig.crash(primary, cluster.container)
    elif fault == "pod deleted":
        rig.must("DELETE", f"/api/v1/namespaces/default/pods/{primary}", DELETE_NOW)
    else:
        node = rig.get("Pod", primary)["spec"]["nodeName"]
        rig.node(node, "kill")
        return lambda: rig.node(node, "start")
    return lambda: None


def one(rig, clusters, cluster, fault, first):
    for other in clusters:
        rig.wait(other.primary, WHOLE_S, f"{other.name} well before the fault")
    old = cluster.primary()
    node = rig.get("Pod", old)["spec"]["nodeName"]
    writer, undo = Application(rig, cluster, first), None
    try:
        reach(lambda: len(writer.times) >= BEFORE, writer, 20)
        begun = time.monotonic()
        undo = strike(rig, cluster, fault, old)
        reach(lambda: len(writer.since(begun)) >= AFTER, writer, LIMIT_S)
        node_ready = rig.condition("Node", node, "Ready") == "True"
        undone, undo = undo, None
        undone()
        since = begun if fault != "node killed" else time.monotonic()
        now = rig.wait(cluster.primary, WHOLE_S, f"{cluster.name} well after the fault")
        whole = time.monotonic() - since
    finally:
        writer.end()
        if undo is not None:
            undo()  # so that the next fault finds it well
    with psycopg_inside(rig, cluster) as ask:
        there = [n for (n,) in ask(f"SELECT n FROM w WHERE n >= {first}")]
    return Seen(
        gap_s=longest_gap(writer.times, begun),
        acknowledged=len(writer.acknowledged),
        lost=len(lost_rows(writer.acknowledged, there)),
        moved=now != old,
        whole_s=whole,
        node_ready=node_ready,
    )


def reach(condition, writer, limit):
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise Unmeasured(f"no writes within {limit} s: {writer.error}")
        time.sleep(0.02)


# ---- the benchmark ----


def start(bench, rig):
    """Ours, and the peer where it can be had: the clusters, and why one is absent."""
    for number in range(1, NODES + 1):
        rig.patch(f"/api/v1/nodes/node-{number}", {"metadata": {"labels": CONTROL if number == NODES else DATA}})
    keep_off_data(rig)
    bench.note("making ours")
    clusters, absent = [Ours(rig)], []
    bench.note("making CloudNativePG")
    try:
        clusters.append(CloudNativePG(rig))
    except (TimeoutError, AssertionError, psycopg.Error, subprocess.CalledProcessError) as error:
        absent.append(f"CloudNativePG is absent: {error}")
        bench.note(absent[-1])
    return clusters, absent


def keep_off_data(rig):
    """The manager goes to the node that is never killed."""
    from manager_rig import NAME

    spec = {"strategy": {"$patch": "replace", "type": "Recreate"}, "template": {"spec": {"nodeSelector": CONTROL}}}
    path = f"/apis/apps/v1/namespaces/default/deployments/{NAME}"
    rig.must("PATCH", path, {"spec": spec}, content_type="application/strategic-merge-patch+json")

    def there():
        leader = rig.leader()
        return leader and leader["spec"]["nodeName"] == f"node-{NODES}"

    rig.wait(there, 90, f"a manager on node-{NODES}")


def plan(full, names):
    """(cluster's name, fault), by turns."""
    ours, peer = (ROUNDS_FULL, PEER_ROUNDS_FULL) if full else (ROUNDS, PEER_ROUNDS)
    for turn in range(ours):
        for fault in FAULTS:
            for name in names:
                if turn < (ours if name == Ours.name else peer):
                    yield name, fault


def result_of(figures):
    """The members of the JSON line: the node counts."""
    ours, peer = (figures.get((name, "node killed"), Figures()).gaps() for name in (Ours.name, CloudNativePG.name))
    unit = "s without acknowledged writes, the primary's node killed"
    return failover_figures.result_of(figures, ours, median(peer) if peer else None, unit)


def show(bench, figures, absent):
    head = ("", "", "runs", "s without writes", "shortest", "longest", "lost", "failed over", "well again after, s")
    bench.table(head, rows_of(figures, FAULTS))
    nodes = figures.get((Ours.name, "node killed"), Figures()).seen
    early = sum(s.node_ready for s in nodes)
    print(f"ours, node killed: writes were back before Kubernetes called the node NotReady in {early} of {len(nodes)}")
    for text in (*absent, *failures_of(figures)):
        print(text)


def measure(bench):
    if os.geteuid() != 0:
        raise Unmeasured("the test cluster makes namespaces and mounts: needs root")
    sys.path.insert(0, str(ROOT / "tests" / "kube"))
    import cnpg
    from manager_rig import ManagerCluster

    os.environ["SHARDHERD_BUILD"] = str(bench.program("shardherd").parent)
    bench.note("building CloudNativePG, if it was not before")
    images = cnpg.images()
    bench.note("starting a cluster, with what Kubernetes has by default for nodes that are lost")
    rig = bench.stack.enter_context(
        ManagerCluster(bench.directory / "cluster", nodes=NODES, quick=False, backoff=10.0, images=images)
    )
    clusters, absent = start(bench, rig)
    by_name = {cluster.name: cluster for cluster in clusters}
    figures, first = {}, STEP
    for name, fault in plan(bench.full, list(by_name)):
        found = figures.setdefault((name, fault), Figures())
        run = functools.partial(one, rig, clusters, by_name[name], fault, first)
        attempt(bench, found, f"{name}, {fault}", run, Unmeasured, AssertionError, psycopg.Error, OSError)
        first += STEP
    show(bench, figures, absent)
    return result_of(figures)
