"""The store in etcd, against real etcd processes: the suite of every back end, and the rules E1 to E9."""

import itertools
import json
import os
import signal
import subprocess
import threading
import time

import pytest
from etcd_cluster import EtcdCluster, Proxy
from kube import build_folder, wait_until


class Store:
    """etcd_tool: a store of its own process."""

    def __init__(self, endpoints, prefix, log, lease=0, user=()):
        self.log = log.open("wb")
        self.process = subprocess.Popen(
            [build_folder() / "tests" / "etcd_tool", endpoints, prefix, str(lease), *user],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self.numbers = itertools.count(1)
        self.answers = {}
        self.events = []
        self.lines = []
        self.changed = threading.Condition()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            words = line.rstrip("\n").split(" ", 1)
            with self.changed:
                self.lines.append(line.rstrip("\n"))
                if words[0].isdigit():
                    self.answers[int(words[0])] = words[1].split(" ")
                elif words[0] == "event":
                    key, revision, value = words[1].split(" ", 2)
                    self.events.append((key, int(revision), value))
                self.changed.notify_all()
        with self.changed:
            self.lines.append("(end)")
            self.changed.notify_all()

    def wait(self, condition, what, timeout=60):
        with self.changed:
            if not self.changed.wait_for(condition, timeout):
                pytest.fail(f"{what}: not within {timeout} s; last lines: {self.lines[-5:]}")

    def opened(self, timeout=40):
        self.wait(lambda: self.lines, "opening", timeout)
        return self

    def send(self, *words):
        number = next(self.numbers)
        self.process.stdin.write(" ".join(str(word) for word in (number, *words)) + "\n")
        self.process.stdin.flush()
        return number

    def answer(self, number, timeout=60):
        self.wait(lambda: number in self.answers, f"answer {number}", timeout)
        return self.answers[number]

    def do(self, *words, timeout=60):
        return self.answer(self.send(*words), timeout)

    def put(self, key, revision, value):
        """The revision, which must be there."""
        answer = self.do("put", key, revision, value)
        assert answer[0] == "ok", answer
        return int(answer[1])

    def wait_events(self, count, timeout=30):
        self.wait(lambda: len(self.events) >= count, f"{count} events", timeout)
        return self.events

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def close(self):
        """Orderly; nothing may leak."""
        self.send("close")
        assert self.process.wait(timeout=30) == 0

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()


@pytest.fixture
def store(tmp_path):
    """store(endpoints, ...) starts a Store; all end with the test."""
    started = []

    def start(endpoints, prefix="test/", **kwargs):
        started.append(Store(endpoints, prefix, tmp_path / f"store{len(started)}.log", **kwargs))
        return started[-1].opened()

    yield start
    for one in started:
        one.kill()


@pytest.fixture
def cluster(tmp_path):
    """cluster(size, *flags) starts an EtcdCluster for one test."""
    started = []

    def start(size=1, *flags):
        started.append(EtcdCluster(tmp_path / f"etcd{len(started)}", size, flags))
        return started[-1].__enter__()

    yield start
    for one in started:
        one.__exit__()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One member for the tests that leave it as it was."""
    with EtcdCluster(tmp_path_factory.mktemp("etcd")) as etcd:
        yield etcd


@pytest.fixture
def proxy():
    """proxy(port) puts a Proxy before a member."""
    started = []

    def start(port):
        started.append(Proxy(port))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_the_suite_on_etcd(shared):
    run = subprocess.run(
        [build_folder() / "tests" / "kube_store_etcd"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "SHARDHERD_TEST_ETCD": shared.urls()},
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    left = [key for key in shared.keys("test-") if b"!" in key]
    assert left == [], "what is not the user's goes with the store that made it"


# ---- E1 ----


@pytest.mark.slow
def test_e1_the_watch_begins_behind_what_was_read(shared, store):
    shared.put("e1/old", "before")
    s = store(shared.urls(), "e1/")
    s.do("watch", "")
    revision = shared.put("e1/new", "after")
    assert s.wait_events(1) == [("new", revision, "after")]
    for i in range(50):
        shared.put("e1/new", f"v{i}")
    s.wait_events(51)
    time.sleep(0.2)
    assert [value for _, _, value in s.events[1:]] == [f"v{i}" for i in range(50)], "each once and in order"


@pytest.mark.slow
def test_e1_a_cut_watch_goes_on_where_it_stopped(shared, store, proxy):
    between = proxy(shared.client_ports[0])
    s = store(between.url, "cut/")
    s.do("watch", "")
    wanted = []
    for i in range(60):
        wanted.append((f"k{i % 7}", shared.put(f"cut/k{i % 7}", f"v{i}"), f"v{i}"))
        if i % 20 == 10:
            between.cut()
        if i % 20 == 15:  # made and removed while nobody watches: still two events
            revision = shared.put("cut/short", "x")
            gone = int(shared.delete("cut/short")["header"]["revision"])
            wanted += [("short", revision, "x"), ("short", gone, "-")]
    s.wait_events(len(wanted))
    assert s.events == wanted


@pytest.mark.slow
def test_e1_compaction_under_a_cut_watch_reloads(cluster, store, proxy):
    etcd = cluster(1)
    between = proxy(etcd.client_ports[0])
    for i in range(200):  # more than a page
        etcd.put(f"c/k{i:03}", "old")
    s = store(between.url, "c/")
    s.do("watch", "")
    between.mode = "refuse"
    between.cut()
    etcd.put("c/k001", "new")
    etcd.put("c/k150", "newer")
    etcd.delete("c/k002")
    etcd.put("c/fresh", "made")
    etcd.put("c/short", "x")
    etcd.delete("c/short")
    etcd.compact()
    between.mode = "pass"
    s.wait_events(4)
    etcd.put("c/k003", "later")
    s.wait_events(5)
    time.sleep(0.2)
    assert sorted((key, value) for key, _, value in s.events[:4]) == [
        ("fresh", "made"),
        ("k001", "new"),
        ("k002", "-"),
        ("k150", "newer"),
    ]
    assert [(key, value) for key, _, value in s.events[4:]] == [("k003", "later")], "nothing lost, nothing repeated"
    assert [revision for _, revision, _ in s.events] == sorted(revision for _, revision, _ in s.events)


@pytest.mark.slow
def test_e1_events_in_fragments_arrive_once_and_in_order(shared, store, proxy):
    """What was missed is more than etcd sends in one message."""
    between = proxy(shared.client_ports[0])
    s = store(between.url, "frag/")
    s.do("watch", "")
    between.mode = "refuse"
    between.cut()
    revisions = [shared.put(f"frag/k{i % 3}", f"{i}." + "x" * 300_000) for i in range(20)]
    between.mode = "pass"
    s.wait_events(20)
    time.sleep(0.2)
    assert [(revision, value.split(".")[0]) for _, revision, value in s.events] == [
        (revision, str(i)) for i, revision in enumerate(revisions)
    ]


@pytest.mark.slow
def test_e1_compaction_of_a_store_at_rest_reads_nothing_again(cluster, store, proxy):
    etcd = cluster(1)
    between = proxy(etcd.client_ports[0])
    for i in range(100):
        etcd.put(f"r/k{i}", "v")
    s = store(between.url, "r/")
    s.do("watch", "")
    between.mode = "refuse"
    between.cut()
    for i in range(20):
        etcd.put("elsewhere", str(i))
    etcd.compact()
    between.requests.clear()
    between.mode = "pass"
    revision = etcd.put("r/k1", "new")
    assert s.wait_events(1) == [("k1", revision, "new")]
    before = between.count(b"POST /v3/kv/range")
    between.cut()
    revision = etcd.put("r/k2", "new")
    assert s.wait_events(2)[1] == ("k2", revision, "new")
    assert between.count(b"POST /v3/kv/range") <= before + 2


# ---- E2 to E4, E7 (the wire's side; tests/unit/store/test_etcd_message has the rest) ----


@pytest.mark.slow
def test_e2_a_missing_succeeded_is_a_lost_comparison(shared, store):
    s = store(shared.urls(), "e2/")
    first = s.put("k", 0, "one")
    assert s.do("put", "k", 0, "two")[0] == "conflict"
    assert s.do("put", "k", first + 1, "two")[0] == "conflict"
    assert s.do("delete", "k", first + 1)[0] == "conflict"
    assert s.do("get", "k") == ["ok", str(first), "one"]


@pytest.mark.slow
def test_e3_a_lease_that_is_gone_ends_the_leadership(shared, store):
    s = store(shared.urls(), "e3/", lease=6)
    assert s.do("lease", "me") == ["ok", "1"]
    lease = shared.keys("e3/!leader")[b"e3/!leader"]["lease"]
    began = time.monotonic()
    shared.request("/v3/lease/revoke", {"ID": lease})
    s.wait(lambda: "lost" in s.lines, "the loss", 10)
    assert time.monotonic() - began < 3.5, "at the next beat, every third of 6 s"
    assert s.do("lease", "me") == ["ok", "2"], "and may stand again, under a new term"


@pytest.mark.slow
def test_e3_a_leaders_key_removed_by_hand_ends_the_leadership(shared, store):
    s = store(shared.urls(), "hand/", lease=3)
    assert s.do("lease", "me") == ["ok", "1"]
    shared.delete("hand/!leader")
    assert s.do("put", "k", 0, "v")[0] == "stale", "from that moment on its writes are refused"
    s.wait(lambda: "lost" in s.lines, "the loss", 10)


@pytest.mark.slow
def test_e4_numbers_beyond_2_to_the_53_round_trip(cluster, store):
    """Leases have 63-bit numbers; revisions that large take a snapshot made for them, see the unit test."""
    etcd = cluster(1)
    s = store(etcd.urls(), "e4/", lease=3)
    assert s.do("lease", "me")[0] == "ok"
    lease = int(etcd.keys("e4/!leader")[b"e4/!leader"]["lease"])
    assert lease > 2**53
    time.sleep(4)
    assert int(etcd.keys("e4/!leader")[b"e4/!leader"]["lease"]) == lease, "it was kept alive under its number"
    assert "lost" not in s.lines


@pytest.mark.parametrize("prefix", [b"p\xff", b"\xff", b"\xff\xff", b"q"])
@pytest.mark.slow
def test_e7_the_end_of_a_prefix_with_0xff(shared, store, prefix):
    s = store(shared.urls(), os.fsdecode(prefix))
    s.do("watch", "")
    shared.put(prefix + b"a", "in")
    shared.put(prefix[:-1] + bytes([prefix[-1] - 1]) + b"z", "before")
    if prefix == b"q":
        shared.put(b"r", "behind")
    else:
        shared.put(b"o", "before")
    shared.put(prefix + b"z", "in")
    s.wait_events(2)
    assert s.do("list") == ["ok", "2", "a", "z"]
    assert [key for key, _, _ in s.events] == ["a", "z"]


# ---- E5 ----


@pytest.mark.slow
def test_e5_an_expired_token_is_renewed(cluster, store, proxy):
    etcd = cluster(1, "--auth-token=simple", "--auth-token-ttl=2")
    etcd.enable_auth()
    between = proxy(etcd.client_ports[0])
    s = store(between.url, "e5/", user=("root", "secret"))
    s.do("watch", "")
    revision = 0
    for i in range(3):
        revision = s.put("k", revision, f"v{i}")
        time.sleep(4.5)  # longer than the token lives unused
    assert 3 <= between.count(b"/v3/auth/authenticate") <= 5, "once for each time it was refused"
    between.cut()  # the watch, too, begins with a token that is no longer taken
    time.sleep(4)
    revision = etcd.put("e5/other", "seen", token=etcd.token())
    s.wait(lambda: ("other", revision, "seen") in s.events, "the change")
    assert [value for key, _, value in s.events if key == "k"] == ["v0", "v1", "v2"]


@pytest.mark.slow
def test_e5_a_token_forgotten_by_a_restart_is_renewed(cluster, store):
    etcd = cluster(1, "--auth-token=simple")
    etcd.enable_auth()
    s = store(etcd.urls(), "e5/", user=("root", "secret"))
    s.do("watch", "")
    first = s.put("k", 0, "one")
    etcd.members[0].kill()
    etcd.start()
    second = s.put("k", first, "two")
    s.wait_events(2)
    assert s.events == [("k", first, "one"), ("k", second, "two")]


@pytest.mark.slow
def test_e5_an_empty_reply_renews_the_token_once(cluster, store, proxy):
    """Some versions answer an invalid token by closing the connection (etcd#15256)."""
    etcd = cluster(1, "--auth-token=simple")
    etcd.enable_auth()
    between = proxy(etcd.client_ports[0])
    s = store(between.url, "e5/", user=("root", "secret"))
    revision = s.put("k", 0, "one")
    old = next(line for data in between.requests for line in data.split(b"\r\n") if line.startswith(b"Authorization"))
    logins = between.count(b"/v3/auth/authenticate")
    between.rude_if = lambda data: old in data
    between.mode = "rude"
    revision = s.put("k", revision, "two")
    assert between.rude_count >= 1
    assert between.count(b"/v3/auth/authenticate") == logins + 1
    assert s.do("get", "k") == ["ok", str(revision), "two"]


@pytest.mark.parametrize(("user", "code"), [(("root", "wrong"), "auth"), (("stranger", "x"), "auth")])
@pytest.mark.slow
def test_e5_a_wrong_password_is_said_at_once_and_not_tried_again(cluster, store, proxy, user, code):
    etcd = cluster(1)
    etcd.enable_auth()
    between = proxy(etcd.client_ports[0])
    s = store(between.url, "e5/", user=user)
    assert s.lines[0].startswith(f"failed {code} ")
    assert user[1] not in s.lines[0] or user[1] == "x"
    assert between.count(b"/v3/auth/authenticate") <= 2


@pytest.mark.slow
def test_e5_a_password_for_a_cluster_without_logins_is_not_needed(shared, store):
    s = store(shared.urls(), "e5/", user=("root", "secret"))
    assert s.put("k", 0, "v") > 0


# ---- E6, E8 ----


@pytest.mark.slow
def test_e6_a_write_whose_answer_was_lost_is_verified(shared, store, proxy):
    between = proxy(shared.client_ports[0])
    s = store(f"{between.url},{shared.url()}", "e6/")
    first = s.put("k", 0, "same")
    between.mode = "deaf"  # the write is applied, its answer never comes
    number = s.send("put", "k", first, "same")
    wait_until(lambda: int(shared.keys("e6/k")[b"e6/k"]["version"]) == 2, what="the write")
    applied = shared.keys("e6/k")[b"e6/k"]
    assert s.answer(number) == ["ok", applied["mod_revision"]]
    now = shared.keys("e6/k")[b"e6/k"]
    assert now["version"] == "2", "applied once, reported with its own revision"


@pytest.mark.slow
def test_e6_also_if_somebody_else_wrote_since(shared, store, proxy):
    between = proxy(shared.client_ports[0])
    s = store(f"{between.url},{shared.url()}", "e6b/")
    first = s.put("k", 0, "same")
    between.mode = "deaf"
    number = s.send("put", "k", first, "same")
    wait_until(lambda: int(shared.keys("e6b/k")[b"e6b/k"]["version"]) == 2, what="the write")
    applied = shared.keys("e6b/k")[b"e6b/k"]["mod_revision"]
    shared.put("e6b/k", "another's")
    assert s.answer(number) == ["ok", applied]


@pytest.mark.slow
def test_e6_a_write_that_did_not_arrive_and_lost_is_a_conflict(shared, store, proxy):
    between = proxy(shared.client_ports[0])
    s = store(f"{between.url},{shared.url()}", "e6c/")
    first = s.put("k", 0, "same")
    between.mode = "silent"
    seen = len(between.requests)
    number = s.send("put", "k", first, "same")
    wait_until(lambda: between.requests[seen:], what="the try")
    shared.put("e6c/k", "same")  # another client, the same text
    assert s.answer(number)[0] == "conflict"
    assert shared.keys("e6c/k")[b"e6c/k"]["version"] == "2"


@pytest.mark.slow
def test_e6_a_try_that_arrives_late_cannot_win_after_a_conflict(shared, store, proxy):
    """A create that was held up on its way, while the key was made and removed by others."""
    between = proxy(shared.client_ports[0])
    s = store(f"{between.url},{shared.url()}", "e6d/")
    s.put("other", 0, "x")
    between.mode = "silent"
    seen = len(between.requests)
    number = s.send("put", "k", 0, "ours")
    wait_until(lambda: between.requests[seen:], what="the try")
    late = b"".join(between.requests[seen:])
    shared.put("e6d/k", "theirs")
    assert s.answer(number)[0] == "conflict"
    shared.delete("e6d/k")
    body = late.split(b"\r\n\r\n", 1)[1].decode()  # a watch may have begun behind it, on the same connection
    answer = shared.request("/v3/kv/txn", json.JSONDecoder().raw_decode(body)[0])
    assert "succeeded" not in answer
    assert b"e6d/k" not in shared.keys("e6d/")


@pytest.mark.slow
def test_e6_an_outcome_that_stays_unknown_is_said_to_be(shared, store, proxy):
    between = proxy(shared.client_ports[0])
    s = store(between.url, "e6e/")
    s.put("other", 0, "x")
    between.mode = "deaf"
    answer = s.do("put", "k", 0, "v")
    assert answer[0] in ("timeout", "unavailable")
    assert "unknown" in " ".join(answer)
    between.mode = "pass"
    between.cut()
    assert s.do("get", "k")[0] == "ok"
    revision = shared.keys("e6e/k")[b"e6e/k"]["mod_revision"]
    assert s.put("k", revision, "next") > int(revision), "the store goes on"


@pytest.mark.slow
def test_e8_fails_over_to_the_next_endpoint(cluster, store):
    etcd = cluster(3)
    s = store(etcd.urls(), "e8/")
    s.do("watch", "")
    revision, wanted = s.put("k", 0, "v"), ["v"]
    for i in range(3):
        etcd.members[i].kill()
        began = time.monotonic()
        revision = s.put("k", revision, f"v{i}")
        wanted.append(f"v{i}")
        assert time.monotonic() - began < 15
        etcd.start()
    s.wait_events(len(wanted))
    assert [value for _, _, value in s.events] == wanted


@pytest.mark.slow
def test_e8_a_silent_member_is_left_for_the_next(cluster, store, proxy):
    etcd = cluster(3)
    between = proxy(etcd.client_ports[0])
    s = store(f"{between.url},{etcd.url(1)},{etcd.url(2)}", "e8/")
    first = s.put("k", 0, "one")
    between.mode = "silent"
    began = time.monotonic()
    s.put("k", first, "two")
    assert time.monotonic() - began < 8, "one try's time"
    assert s.do("get", "k")[2] == "two"


@pytest.mark.slow
def test_e8_a_member_without_a_quorum_does_not_answer_for_the_cluster(cluster, store):
    etcd = cluster(3)
    s = store(etcd.url(0), "e8/")
    first = s.put("k", 0, "one")
    etcd.members[1].kill()
    etcd.members[2].kill()
    number = s.send("put", "k", first, "two")
    time.sleep(3)
    assert number not in s.answers
    etcd.start()
    assert s.answer(number)[0] == "ok"
    assert etcd.keys("e8/k")[b"e8/k"]["version"] == "2"


@pytest.mark.slow
def test_e8_a_member_of_another_cluster_is_not_listened_to(cluster, store):
    ours, other = cluster(1), cluster(1)
    s = store(f"{ours.url()},{other.url()}", "e8/")
    revision = s.put("k", 0, "ours")
    other.put("e8/k", "theirs")
    ours.members[0].kill()
    number = s.send("get", "k")
    time.sleep(2)
    assert number not in s.answers
    ours.start()
    assert s.answer(number) == ["ok", str(revision), "ours"]


class Counter(threading.Thread):
    """Counts up one key by compare-and-swap, always with the same text: only the revision tells who won."""

    def __init__(self, store):
        super().__init__()
        self.store, self.wins, self.unknown, self.conflicts = store, [], [], 0
        self.stopping = threading.Event()

    def run(self):
        while not self.stopping.is_set():
            answer = self.store.do("get", "counter")
            expected = int(answer[1]) if answer[0] == "ok" else 0
            if answer[0] not in ("ok", "not_found"):
                continue
            answer = self.store.do("put", "counter", expected, "tick")
            if answer[0] == "ok":
                self.wins.append((expected, int(answer[1])))
            elif answer[0] == "conflict":
                self.conflicts += 1
            else:
                self.unknown.append(answer)


@pytest.mark.slow
def test_leader_change_in_the_middle_loses_no_write_and_lets_none_win_twice(cluster, store):
    etcd = cluster(3)
    stores = [store(etcd.urls(), "lc/") for _ in range(3)]
    watcher = store(etcd.urls(), "lc/")
    watcher.do("watch", "counter")
    counters = [Counter(s) for s in stores]
    for counter in counters:
        counter.start()
    for _ in range(4):
        time.sleep(2)
        etcd.members[etcd.leader()].kill()
        time.sleep(1.5)
        etcd.start()
    time.sleep(1)
    for counter in counters:
        counter.stopping.set()
    for counter in counters:
        counter.join(60)
        assert not counter.is_alive()
    wins = sorted(win for counter in counters for win in counter.wins)
    kv = etcd.keys("lc/counter")[b"lc/counter"]
    assert [counter.unknown for counter in counters] == [[], [], []]
    assert len(wins) > 100
    assert len({expected for expected, _ in wins}) == len(wins), "one winner for each revision"
    assert int(kv["version"]) == len(wins), "what was acknowledged is there, and nothing else"
    assert [new for _, new in wins[:-1]] == [old for old, _ in wins[1:]], "an unbroken chain"
    watcher.wait_events(len(wins))
    assert [revision for _, revision, _ in watcher.events] == [new for _, new in wins], "each seen once, in order"


# ---- E9 ----


@pytest.mark.slow
def test_e9_no_space_is_reported_without_a_hot_loop(cluster, store, proxy):
    etcd = cluster(1, f"--quota-backend-bytes={2 * 1024 * 1024}")
    between = proxy(etcd.client_ports[0])
    s = store(between.url, "e9/", lease=3)
    s.do("watch", "")
    assert s.do("lease", "me") == ["ok", "1"]
    keep = s.put("small", 0, "v")
    filled = []
    while len(filled) < 60:
        answer = s.do("put", f"big{len(filled)}", 0, "x" * 100_000)
        if answer[0] != "ok":
            break
        filled.append(int(answer[1]))
    assert answer[0] == "limit" and "quota" in " ".join(answer)
    between.requests.clear()
    until, refused = time.monotonic() + 5, 0
    while time.monotonic() < until:
        assert s.do("put", "more", 0, "v")[0] == "limit"
        refused += 1
    assert refused > 50
    assert between.count(b"POST /v3/kv/txn") <= 20, "etcd is asked now and then (and beats, with a look at the key)"
    assert s.do("get", "small") == ["ok", str(keep), "v"], "reading goes on"
    assert "lost" not in s.lines, "leading goes on"
    for i, revision in enumerate(filled):
        assert s.do("delete", f"big{i}", revision) == ["ok", "0"], "deleting is what makes room"
    etcd.compact()
    etcd.request("/v3/maintenance/defragment", {})
    member = etcd.request("/v3/maintenance/status", {})["header"]["member_id"]
    etcd.request("/v3/maintenance/alarm", {"action": "DEACTIVATE", "memberID": member, "alarm": "NOSPACE"})
    wait_until(lambda: s.do("put", "more", 0, "v")[0] in ("ok", "conflict"), 40, "writing again", interval=0.2)


# ---- leading ----


def leader_of(etcd, prefix):
    found = etcd.keys(prefix + "!leader")
    return next(iter(found.values()))["value"].decode() if found else None


@pytest.mark.slow
def test_one_leads_and_the_next_follows_with_the_next_term(shared, store):
    a, b = (store(shared.urls(), "one/", lease=3) for _ in range(2))
    assert a.do("lease", "a") == ["ok", "1"]
    number = b.send("lease", "b")
    time.sleep(4)
    assert number not in b.answers, "while the first beats, longer than its lease"
    a.close()
    assert b.answer(number, 5) == ["ok", "2"], "given back, not run out"
    assert leader_of(shared, "one/") == "b"
    assert shared.keys("one/leader/term")[b"one/leader/term"]["value"] == b"2"


@pytest.mark.slow
def test_a_paused_leader_is_stopped_before_and_after(shared, store):
    a, b = (store(shared.urls(), "pause/", lease=3) for _ in range(2))
    assert a.do("lease", "a") == ["ok", "1"]
    revision = a.put("k", 0, "a's")
    number = b.send("lease", "b")
    a.pause()
    late = a.send("put", "k", revision, "too late")
    assert b.answer(number, 15) == ["ok", "2"]
    time.sleep(0.5)
    a.resume()
    a.wait(lambda: "lost" in a.lines, "the loss", 5)
    answer = a.answer(late)
    if a.lines.index(" ".join([str(late), *answer])) < a.lines.index("lost"):
        assert answer[0] == "stale", "asked for before it knew: fenced by the key's revision"
    assert "lost" not in b.lines


@pytest.mark.slow
def test_a_leader_that_is_cut_off_stops_before_its_lease_ends(shared, store, proxy):
    between = proxy(shared.client_ports[0])
    a = store(between.url, "off/", lease=6)
    b = store(shared.url(), "off/", lease=6)
    assert a.do("lease", "a") == ["ok", "1"]
    number = b.send("lease", "b")
    between.mode = "silent"
    a.wait(lambda: "lost" in a.lines, "the loss", 10)
    assert number not in b.answers, "it has stopped while its key is still there"
    assert leader_of(shared, "off/") == "a"
    assert b.answer(number, 15) == ["ok", "2"]


@pytest.mark.slow
def test_leadership_outlives_a_change_of_etcds_leader(cluster, store):
    etcd = cluster(3)
    s = store(etcd.urls(), "ll/", lease=9)
    assert s.do("lease", "me") == ["ok", "1"]
    for _ in range(2):
        etcd.members[etcd.leader()].kill()
        time.sleep(5)
        etcd.start()
    time.sleep(3)
    assert "lost" not in s.lines
    assert s.put("k", 0, "v") > 0


@pytest.mark.slow
def test_terms_grow_over_every_kind_of_end(shared, store):
    for term in range(1, 5):
        s = store(shared.urls(), "terms/", lease=2)
        assert s.do("lease", "me", timeout=15) == ["ok", str(term)]
        if term % 2:
            s.close()
        else:
            s.kill()


# ---- opening and closing ----


@pytest.mark.slow
def test_open_fails_with_the_reason_when_no_member_is_there(store, tmp_path):
    began = time.monotonic()
    s = store("http://127.0.0.1:1", "x/")
    assert s.lines[0].startswith("failed unavailable ")
    assert "connection refused" in s.lines[0]
    assert time.monotonic() - began < 40
    s.wait(lambda: "(end)" in s.lines, "the end", 10)
    assert s.process.wait(timeout=10) == 0, "and nothing leaks"


@pytest.mark.slow
def test_a_refused_role_is_said_at_once(cluster, store):
    etcd = cluster(1)
    etcd.request("/v3/auth/user/add", {"name": "joe", "password": "joe"})
    etcd.enable_auth()
    s = store(etcd.urls(), "x/", user=("joe", "joe"))
    assert s.lines[0].startswith("failed auth ")


@pytest.mark.slow
def test_close_while_etcd_is_away_takes_seconds(cluster, store):
    etcd = cluster(1)
    s = store(etcd.urls(), "x/", lease=3)
    s.do("watch", "")
    assert s.do("lease", "me")[0] == "ok"
    s.put("k", 0, "v")
    etcd.members[0].process.send_signal(signal.SIGSTOP)
    numbers = [s.send("put", f"k{i}", 0, "v") for i in range(5)]
    began = time.monotonic()
    s.close()
    assert time.monotonic() - began < 12
    assert all(s.answers[number][0] in ("timeout", "unavailable", "canceled") for number in numbers)
