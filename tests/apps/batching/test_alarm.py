import asyncio
import time

from apps.batching.alarm import Alarm


def test_it_rings_at_the_earliest_deadline_and_then_at_the_next():
    async def scenario():
        rung = []
        loop = asyncio.get_running_loop()
        start = loop.time()

        def sweep(now):
            rung.append(round(now - start, 2))
            return start + 0.06 if len(rung) == 1 else None

        alarm = Alarm(sweep, loop.time)
        alarm.by(start + 0.05)
        alarm.by(start + 0.02)
        alarm.by(start + 0.04)
        await asyncio.sleep(0.12)
        return rung

    first, second = asyncio.run(scenario())
    assert 0.01 <= first < 0.05
    assert second >= 0.05


def test_it_is_silent_once_it_is_off():
    async def scenario():
        rung = []
        alarm = Alarm(rung.append, time.monotonic)
        alarm.by(time.monotonic() + 0.01)
        alarm.off()
        await asyncio.sleep(0.03)
        return rung

    assert asyncio.run(scenario()) == []
