"""clients/python, told what to use: ours.py follow|afollow sse|poll URL. A line of JSON for each event."""

import asyncio
import json
import sys

import sidestream_client

how, transport, url = sys.argv[1:]
# A long poll says nothing of when to come back.
options = {"transport": transport, "retry": 0.05, "max_retry": 0.5}


def tell(event):
    document = event.data.get("fullDocument") or {}
    print(json.dumps([event.type, event.data.get("documentKey", {}).get("_id"), document.get("text")]), flush=True)


async def asynchronous():
    async for event in sidestream_client.afollow(url, **options):
        tell(event)


if how == "afollow":
    asyncio.run(asynchronous())
else:
    for each in sidestream_client.follow(url, **options):
        tell(each)
