"""The event stream: in order, none lost, none twice; who is too far behind loads the page again."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

from fromnoise.studio.events import Events


def in_a_loop_of_its_own(work):
    """Run a coroutine in another thread: a browser of another test may have a loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def number_of(text):
    lines = dict(line.partition(": ")[::2] for line in text.decode().splitlines())
    return lines["event"], lines.get("id"), json.loads(lines["data"]).get("i")


async def collect(events, after, count):
    found = []
    async for text in events.stream(after):
        found.append(number_of(text))
        if len(found) == count:
            break
    return found


def test_every_stream_gets_every_event_in_order():
    async def run():
        events = Events()
        begin = events.last
        streams = [asyncio.create_task(collect(events, begin, 500)) for _ in range(5)]
        for i in range(500):
            events.publish("row", i=i, text="é\n\n")
            if i % 7 == 0:
                await asyncio.sleep(0)
        found = await asyncio.gather(*streams)
        middle = found[0][99][1]
        return found, await collect(events, middle, 400)  # a stream that comes back

    found, again = in_a_loop_of_its_own(run())
    for each in found:
        assert [i for _, _, i in each] == list(range(500))
    assert again == found[0][100:]


def test_who_is_too_far_behind_or_of_another_server_loads_the_page_again():
    async def run():
        events = Events(kept=1000)
        begin = events.last
        for i in range(100):
            events.publish("row", i=i)
        kept = await collect(events, events.last.rpartition("-")[0] + "-95", 5)
        lost = await collect(events, begin, 1)
        other = [await collect(events, after, 1) for after in ("abc-5", "", "x", "abc-", "-1")]
        slow = events.stream(events.last)
        events.publish("row", i=100)
        first = await anext(slow)
        for i in range(101, 200):
            events.publish("row", i=i)
        late = await anext(slow)
        return kept, lost, other, first, late

    kept, lost, other, first, late = in_a_loop_of_its_own(run())
    assert [i for _, _, i in kept] == [95, 96, 97, 98, 99]
    assert lost == [("reload", None, None)]
    assert other == [lost] * 5
    assert number_of(first)[2] == 100
    assert number_of(late)[0] == "reload"


def test_closing_ends_every_stream():
    async def run():
        events = Events()

        async def all_of():
            return [text async for text in events.stream(events.last)]

        waiting = [asyncio.create_task(all_of()) for _ in range(3)]
        await asyncio.sleep(0)
        events.publish("row", i=1)
        await asyncio.sleep(0.01)
        events.close()
        return await asyncio.wait_for(asyncio.gather(*waiting), 10)

    assert [len(each) for each in in_a_loop_of_its_own(run())] == [1, 1, 1]
