"""The fixtures themselves: what other tests rely on."""

import psycopg
import pytest

pytestmark = pytest.mark.beside


def test_life_of_a_server(pg_server, pg_version):
    assert pg_server.value("SHOW server_version").split(".")[0] == str(pg_version)
    assert pg_server.value("SHOW wal_level") == "logical"
    assert pg_server.psql("CREATE TABLE t (id int); INSERT INTO t VALUES (1), (2); SELECT * FROM t") == [(1,), (2,)]
    pg_server.restart(work_mem="7MB")
    assert pg_server.value("SHOW work_mem") == "7MB"


def test_killed_server_recovers(pg_factory):
    server = pg_factory()
    server.psql("CREATE TABLE t AS SELECT 1 AS id")
    idle = server.connect()
    server.kill9()
    assert not server.running
    with pytest.raises(psycopg.OperationalError):
        idle.execute("SELECT 1")
    server.start()
    assert server.value("SELECT count(*) FROM t") == 1


def test_password_is_needed(pg_factory):
    server = pg_factory(password="s3cret")
    assert server.value("SELECT 1") == 1
    with pytest.raises(psycopg.OperationalError):
        server.connect(password="wrong")


def test_nothing_is_left(pg_factory):
    server = pg_factory()
    pid = server.pid
    server.kill9()
    server.start()
    server.pause_all()
    server.destroy()
    assert not server.dir.exists() and not server.running and pid is not None
