"""Who writes while a primary is lost: a row each 5 ms, a ledger of all that were acknowledged, and what it says."""

import contextlib
import os
import socket
import threading
import time

import psycopg

EACH_S = 0.005
ROUTE_EACH_S = 0.05
CANCEL_EACH_S = 1


# ---- pure: what a ledger says ----


def longest_gap(times, since):
    """The longest time between two acknowledged writes one after the other, of which the later came after `since`."""
    return max((b - a for a, b in zip(times, times[1:], strict=False) if b >= since), default=0.0)


def lost_rows(acknowledged, there):
    return sorted(set(acknowledged) - set(there))


def both_acknowledged_s(old, new):
    """For how long, from the first write that the new primary acknowledged, the old one went on acknowledging: by when
    that was asked for, as the answer to an earlier one may have been held up by a link."""
    return max(0.0, old[-1] - new[0]) if old and new else 0.0


# ---- the writers ----


class Session(threading.Thread):
    """A session to one server that stays open: it writes until that server ends it, and never looks for another."""

    def __init__(self, conninfo, first):
        super().__init__(daemon=True)
        self.conninfo, self.number, self.ending = conninfo, first, False
        self.acknowledged, self.asked, self.times, self.error = [], [], [], None
        self.connection = psycopg.connect(conninfo, autocommit=True, connect_timeout=2)
        self.start()

    def run(self):
        try:
            while not self.ending:
                self.write()
        except psycopg.Error as error:
            self.error = error
        with contextlib.suppress(psycopg.Error):
            self.connection.close()

    def write(self):
        write(self, self.connection)

    def end(self):
        self.ending = True
        shut(self.connection)
        self.join(timeout=10)


class Impatient(Session):
    """The same, and each second it cancels whatever statement it has under way, as a driver's timeout does. What is
    acknowledged all the same counts as such; `warned` says how often the server said that it waited for nobody."""

    def __init__(self, conninfo, first):
        self.canceled = self.warned = 0
        super().__init__(conninfo, first)
        self.connection.add_notice_handler(self.noticed)
        threading.Thread(target=self.cancel, daemon=True).start()

    def noticed(self, diagnostic):
        self.warned += diagnostic.sqlstate == "01000"

    def cancel(self):
        while not self.ending and self.error is None:
            time.sleep(CANCEL_EACH_S)
            with contextlib.suppress(psycopg.Error, OSError):
                self.connection.cancel_safe(timeout=CANCEL_EACH_S)

    def write(self):
        try:
            super().write()
        except psycopg.errors.QueryCanceled:
            self.canceled += 1


class Writer(threading.Thread):
    """What an application does: keeps its session while it works, goes where the primary is said to be when it ends,
    and leaves it when another one is said to be the primary.

    `place()` asks that; None: nobody is named. `conninfo(name)` says how to connect."""

    def __init__(self, place, conninfo, first):
        super().__init__(daemon=True)
        self.place, self.conninfo, self.number, self.ending = place, conninfo, first, False
        self.acknowledged, self.asked, self.times, self.error = [], [], [], None
        self.sessions = []  # (when it was opened, at whom, how many rows were acknowledged before)
        self.named, self.at, self.connection = place(), None, None
        self.guide = threading.Thread(target=self.follow, daemon=True)
        self.guide.start()
        self.start()

    def follow(self):
        while not self.ending:
            named = self.place()
            if named is not None and named != self.named:
                self.named = named
            if self.connection is not None and self.at != self.named:
                shut(self.connection)
            time.sleep(ROUTE_EACH_S)

    def run(self):
        while not self.ending:
            try:
                if self.connection is None:
                    self.open()
                write(self, self.connection)
            except psycopg.Error as error:
                self.error = error
                with contextlib.suppress(psycopg.Error):
                    if self.connection is not None:
                        self.connection.close()
                self.connection = None
                time.sleep(2 * EACH_S)

    def open(self):
        at = self.named
        if at is None:
            raise psycopg.OperationalError("nobody is named")
        connection = psycopg.connect(self.conninfo(at), autocommit=True, connect_timeout=2)
        self.at, self.connection = at, connection
        self.sessions.append((time.monotonic(), at, len(self.times)))

    def since(self, moment, at=None):
        """The times of rows from the first session on that was opened after this moment, and at this node."""
        start = next((n for opened, where, n in self.sessions if opened >= moment and at in (None, where)), None)
        return [] if start is None else self.times[start:]

    def end(self):
        self.ending = True
        self.guide.join(timeout=10)
        if self.connection is not None:
            shut(self.connection)
        self.join(timeout=10)


def write(who, connection):
    who.number += 1
    asked = time.monotonic()
    connection.execute("INSERT INTO public.w VALUES (%s)", (who.number,))
    who.acknowledged.append(who.number)
    who.asked.append(asked)
    who.times.append(time.monotonic())
    time.sleep(EACH_S)


def shut(connection):
    """A server that stands still answers nobody: whoever waits for it is woken by the end of the connection."""
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as copy:
        copy.shutdown(socket.SHUT_RDWR)
