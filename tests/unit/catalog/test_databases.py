"""A PostgreSQL server that takes what it is sent and never answers does not keep the broker for ever."""

import socket
import threading
import time
from contextlib import closing

import pytest
import sqlalchemy as sa

from strongroom.catalog.databases import PostgresDatabase
from strongroom.errors import UsageError

psycopg = pytest.importorskip("psycopg")
pytestmark = pytest.mark.postgres
PATIENCE = 2.0


class Proxy:
    """Stands between a client and a server; while ``silent`` it keeps connections and passes nothing back."""

    def __init__(self, port):
        self._port = port
        self.silent = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._port))
            for pair in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source, target, back):
        try:
            while data := source.recv(65536):
                if back and self.silent:
                    continue
                target.sendall(data)
        except OSError:
            pass
        finally:
            target.close()

    def close(self):
        self._listener.close()


@pytest.fixture
def proxy(postgres):
    proxy = Proxy(postgres.port)
    proxy.url = postgres.url(postgres.database()).replace(f":{postgres.port}/", f":{proxy.port}/")
    # The password file names the server's own port.
    with postgres.passfile.open("r+") as stream:
        line = stream.readline()
        stream.seek(0, 2)
        stream.write(line.replace(f":{postgres.port}:", f":{proxy.port}:"))
    yield proxy
    proxy.close()


def bounded(what):
    begun = time.monotonic()
    with pytest.raises((sa.exc.OperationalError, psycopg.OperationalError, UsageError)) as failed:
        what()
    assert time.monotonic() - begun < 3 * PATIENCE + 4
    return failed.value


def test_a_server_that_falls_silent_fails_commits_and_reads_within_the_patience(proxy):
    with closing(PostgresDatabase.open(proxy.url, patience=PATIENCE)) as database:
        with database.transaction() as cursor:
            cursor.execute("CREATE TABLE t (id integer)")
        with database.engine.connect() as connection:
            assert connection.execute(sa.text("SELECT count(*) FROM t")).scalar() == 0
        proxy.silent = True

        def commit():
            with database.transaction() as cursor:
                cursor.execute("INSERT INTO t VALUES (?)", (1,))

        def read():
            with database.engine.connect() as connection:
                connection.execute(sa.text("SELECT count(*) FROM t"))

        assert "did not answer within 2 s" in str(bounded(commit))
        bounded(commit)  # It never connects again: its lock is gone.
        bounded(read)


def test_a_server_that_accepts_and_says_nothing_is_not_waited_for(proxy):
    proxy.silent = True
    assert "cannot reach the store" in str(bounded(lambda: PostgresDatabase.open(proxy.url, patience=PATIENCE)))
