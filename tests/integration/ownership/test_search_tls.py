"""An Elasticsearch whose certificate an authority of one's own has signed, told of by LERN_SEARCH_CA."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lern.doctor import search as search_doctor
from lern.errors import Unreachable
from lern.search import Search, open_search
from lern.settings import Settings
from lern.store import open_store
from tests.servers.certificates import HOST, Certificates
from tests.servers.server import Server


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.write_eof() if writer.can_write_eof() else writer.close()


class Proxy:
    """Takes connections with TLS and hands them on to a server without: what stands before many a cluster."""

    def __init__(self, server: str, certificate: Path) -> None:
        self._host, _, port = server.removeprefix("http://").partition(":")
        self._port = int(port)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        made = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._taken, HOST, 0, ssl=self._context), self._loop
        ).result()
        self._server = made
        self.address = f"https://{HOST}:{made.sockets[0].getsockname()[1]}"

    async def _taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._host, self._port)
        try:
            await asyncio.gather(pass_on(reader, back), pass_on(there, writer), return_exceptions=True)
        finally:
            back.close()
            writer.close()

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
def proxy(elasticsearch: Server, certificates: Certificates) -> Iterator[Proxy]:
    with closing(Proxy(elasticsearch.address, certificates.server)) as made:
        yield made


def settings(tmp_path: Path, proxy: Proxy, authority: Path | None) -> Settings:
    trusted = {} if authority is None else {"LERN_SEARCH_CA": str(authority)}
    return Settings.load({"LERN_DATA_DIR": str(tmp_path), "LERN_SEARCH_URL": proxy.address, **trusted})


def opened(told: Settings) -> Search:
    return open_search(told, open_store(told))


def test_an_authority_of_ones_own_is_trusted_where_it_is_named(
    tmp_path: Path, proxy: Proxy, certificates: Certificates
) -> None:
    told = settings(tmp_path, proxy, certificates.authority)
    with closing(opened(told)) as search:
        search.create()
        search.check()
    assert {found.level for found in search_doctor.examine(told)} == {"ok"}


def test_whose_authority_is_not_named_is_not_trusted(tmp_path: Path, proxy: Proxy, certificates: Certificates) -> None:
    for authority in (None, certificates.stranger):
        told = settings(tmp_path, proxy, authority)
        with closing(opened(told)) as search, pytest.raises(Unreachable, match="certificate verify failed"):
            search.check()
        [found] = search_doctor.examine(told)
        assert found.level == "problem"
        assert "certificate verify failed" in found.detail
