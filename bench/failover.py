"""A primary is lost in several ways, ours beside others: for how long nobody writes, and what is lost."""

import functools
import signal
import sys
import time
from dataclasses import dataclass

import failover_figures
import psycopg
from benchmarks import Unmeasured, median, rounded
from failover_clusters import Ours
from failover_figures import attempt, failures_of, rows_of
from failover_peers import DEFAULTS, FASTEST, Patroni, PgAutoFailover
from failover_writers import Impatient, Session, Writer, both_acknowledged_s, longest_gap, lost_rows

TITLE = "lost nodes, processes and links, switchover: seconds without writes, acknowledged writes that are lost"
GOAL = "node death p50 1 s, at most 2.5 s, 20 x sooner than the best peer; switchover p50 0.5 s, link 6 s; nothing lost"
BEFORE, AFTER = 100, 100  # acknowledged writes before a fault, and over new sessions after it
OBSERVE_S = 3  # the old primary beside the new one
LIMIT_S = 90
# where writers' numbers begin: one fault's never meet another's
STEP = 10_000_000

FAULTS = {
    "node death": "node_death",
    "postmaster killed": "postmaster_killed",
    "switchover": "switched_over",
    "daemon killed": "daemon_killed",
    "daemon frozen": "daemon_frozen",
    "daemon killed, cancels": "daemon_killed",
    "daemon frozen, cancels": "daemon_frozen",
    "node frozen": "node_frozen",
    "silent link loss": "link_lost",
}
# after these the old primary's server may go on, and its session is watched
CANCELS = ("daemon killed, cancels", "daemon frozen, cancels")  # the session cancels its commits each second
SERVER_LIVES = ("daemon killed", "daemon frozen", *CANCELS, "silent link loss")
ALL = tuple(FAULTS)
# each cluster's faults: in the first round, in each later one, and in each with --full
CLUSTERS = {
    "ours": (lambda bench, _: Ours(bench), ALL, tuple(f for f in ALL if f not in CANCELS), ALL),
    "Patroni, defaults": (lambda bench, name: Patroni(bench, name, DEFAULTS), ALL[:3], (), ALL),
    "Patroni, fastest": (lambda bench, name: Patroni(bench, name, FASTEST), (*ALL[:4], ALL[-1]), (), ALL),
    # with its daemon gone and the server alive it never fails over, and so has nothing to measure
    "pg_auto_failover": (PgAutoFailover, ("node death", "switchover", ALL[-1]), (), (*ALL[:3], *ALL[-2:])),
}
ROUNDS, ROUNDS_FULL = 2, 5


@dataclass
class Seen:
    """What one fault did."""

    gap_s: float  # without an acknowledged write of the application
    back_s: float  # until the first one over a new session
    acknowledged: int
    lost: int
    beside_s: float  # the old primary acknowledged beside the new one
    moved: bool  # another primary
    rejoin_s: float | None
    warned: int | None = None  # commits that were acknowledged with a warning: nobody was waited for


class Figures(failover_figures.Figures):
    def rejoins(self):
        return [s.rejoin_s for s in self.seen if s.rejoin_s is not None]

    def cells(self, gaps):
        return (
            len(gaps),
            f"{median(gaps):.2f}",
            f"{max(gaps):.2f}",
            f"{median([s.back_s for s in self.seen]):.2f}",
            self.lost_of_all(),
            f"{max(s.beside_s for s in self.seen) * 1000:.0f}",
            f"{median(self.rejoins()):.1f}" if self.rejoins() else "-",
        )

    def as_json(self):
        return super().as_json() | {
            "max_s": rounded(max(self.gaps())),
            "back_p50_s": rounded(median([s.back_s for s in self.seen])),
            "beside_ms": rounded(max(s.beside_s for s in self.seen) * 1000),
            "rejoin_p50_s": rounded(median(self.rejoins())) if self.rejoins() else None,
            "warned": sum(s.warned for s in self.seen) if all(s.warned is not None for s in self.seen) else None,
            "failed_over": sum(s.moved for s in self.seen),
        }


def plan(full, names):
    """(fault, cluster) in the order in which they are done: by turns."""
    for turn in range(ROUNDS_FULL if full else ROUNDS):
        for fault in FAULTS:
            for name in names:
                _, first, later, each = CLUSTERS[name]
                if fault in (each if full else later if turn else first):
                    yield fault, name


def result_of(figures):
    """The members of the JSON line: node death counts, against whichever peer was sooner."""
    gaps = figures["ours", "node death"].gaps()
    peers = [f.gaps() for (name, fault), f in figures.items() if fault == "node death" and name != "ours" and f.seen]
    best = min((median(theirs) for theirs in peers), default=None)
    result = failover_figures.result_of(figures, gaps, best, "s without acknowledged writes, the primary's node dead")
    return result | {"p50_s": rounded(median(gaps)), "max_s": rounded(max(gaps))}


# ---- one fault ----


def reach(condition, what, *writers, limit=LIMIT_S):
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            said = "; ".join(str(w.error) for w in writers if w.error)
            raise Unmeasured(f"{what}: not within {limit} s: {said}")
        time.sleep(0.02)


def one(cluster, fault, first):
    cluster.settled()
    old = cluster.place()
    if old is None:
        raise Unmeasured("nobody is the primary")
    session = (Impatient if fault in CANCELS else Session)(cluster.conninfo(old), first + STEP // 2)
    writer, undo = Writer(cluster.place, cluster.conninfo, first), None
    try:
        both = (writer, session)
        reach(lambda: all(len(w.times) >= BEFORE for w in both), "writes before it", *both, limit=20)
        begun = time.monotonic()
        undo = getattr(cluster, FAULTS[fault])(old)
        reach(lambda: len(writer.since(begun)) >= AFTER, "writes over a new session after it", writer)
        if fault in SERVER_LIVES:
            time.sleep(OBSERVE_S)
        moved = writer.at != old
        undone, undo = undo, None
        since = undone()
        streaming = cluster.wait_streaming()
    finally:
        writer.end()
        session.end()
        if undo is not None:
            undo()  # so that the next fault finds it whole
    acknowledged = writer.acknowledged + session.acknowledged
    back = writer.since(begun)
    return Seen(
        gap_s=longest_gap(writer.times, begun),
        back_s=back[0] - begun,
        acknowledged=len(acknowledged),
        lost=len(lost_rows(acknowledged, cluster.rows(first))),
        beside_s=both_acknowledged_s(session.asked, writer.since(begun, writer.at)) if moved else 0.0,
        moved=moved,
        rejoin_s=max(0.0, streaming - since) if moved and fault == "node death" else None,
        warned=session.warned if fault in CANCELS else None,
    )


# ---- the benchmark ----


def make_clusters(bench):
    """Ours, and whichever peers can be had here: {name: cluster}, and why others are absent. They are made beside each
    other, and then waited for."""
    clusters, absent = {}, []

    def attempt(name, step, *arguments):
        try:
            return step(*arguments)
        except (Unmeasured, RuntimeError) as error:
            if name == "ours":
                raise
            clusters.pop(name, None)
            absent.append(f"{name} is absent: {error}")
            bench.note(absent[-1])

    for name, (make, *_) in CLUSTERS.items():
        bench.note(f"making {name}")
        if made := attempt(name, make, bench, name):
            clusters[name] = made
    for name, cluster in list(clusters.items()):
        attempt(name, cluster.ready)
    return clusters, absent


def show(bench, figures, absent):
    head = ("", "", "runs", "s without writes", "longest", "new session", "lost", "both acknowledge, ms", "rejoin s")
    bench.table(head, rows_of(figures, FAULTS))
    for text in (*absent, *failures_of(figures)):
        print(text)


def ended(number, _):
    sys.exit(128 + number)


def measure(bench):
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ended)  # so that what was started is ended
    try:
        return measured(bench)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # nothing interrupts that


def measured(bench):
    clusters, absent = make_clusters(bench)
    figures, first = {}, STEP
    for fault, name in plan(bench.full, list(clusters)):
        found = figures.setdefault((name, fault), Figures())
        run = functools.partial(one, clusters[name], fault, first)
        attempt(bench, found, f"{name}, {fault}", run, Unmeasured, psycopg.Error, OSError)
        first += STEP
    show(bench, figures, absent)
    return result_of(figures)
