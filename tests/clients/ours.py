"""clients/python, told what to use: ours.py follow|afollow sse|poll URL. A line of JSON for each event."""

import asyncio
import json
import sys

import sidestream_client

how, transport, url = sys.argv[1:]


def tell(event):
    document = event.data.get("fullDocument") or {}
    print(json.dumps([event.type, event.data.get("documentKey", {}).get("_id"), document.get("text")]), flush=True)


async def asynchronous():
    async for event in sidestream_client.afollow(url, transport=transport):
        tell(event)


if how == "afollow":
    asyncio.run(asynchronous())
else:
    for each in sidestream_client.follow(url, transport=transport):
        tell(each)
