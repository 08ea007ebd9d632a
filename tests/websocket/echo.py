"""An app whose WebSocket says again what it is told: python3 echo.py PORT"""

import asyncio
import sys

from websockets.asyncio.server import serve


async def echo(websocket):
    async for message in websocket:
        await websocket.send(message)


async def main(port):
    # As large and as compressed as the cases want it. A ping of its own, which would come after 20 seconds, is an
    # event that no case expects: those that take longer would fail of it.
    async with serve(echo, "127.0.0.1", port, max_size=None, compression="deflate", ping_interval=None) as server:
        await server.serve_forever()


asyncio.run(main(int(sys.argv[1])))
