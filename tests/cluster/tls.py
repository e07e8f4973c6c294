"""A TLS end before a server's unix socket: `python -m tests.cluster.tls ADDRESS PORT CERTIFICATE SOCKET`.

The Valkey of the wheel is built without TLS.
"""

import asyncio
import contextlib
import ssl
import sys


async def _copy(reader, writer):
    """Hand on what comes until either side ends."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def main(address, port, certificate, socket):
    """Listen for ever."""

    async def serve(reader, writer):
        try:
            inner, outer = await asyncio.open_unix_connection(socket)
        except OSError:  # the server is away
            writer.close()
            return
        await asyncio.gather(_copy(reader, outer), _copy(inner, writer))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = await asyncio.start_server(serve, address, int(port), ssl=context)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
