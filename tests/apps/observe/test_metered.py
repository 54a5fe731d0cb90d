import asyncio

import numpy as np
import pytest

from apps.batching.batcher import Batcher, BatchLimits
from apps.observe.exporter import Exporter
from apps.observe.meter import ServeMeter
from apps.observe.metered import CountedAs, RunnerInfo, RunsOn, meter_batcher
from apps.refusal import RefusedError


def test_batches_refusals_and_the_queue_are_counted_under_the_release():
    meter = ServeMeter("digits")

    async def scenario():
        batcher = Batcher(lambda batch: np.zeros((len(batch), 2), np.float32), BatchLimits(4, 4))
        meter_batcher(batcher, meter, "7", "teacher")
        await batcher.submit(np.zeros((3, 1), np.float32))
        with pytest.raises(RefusedError):
            await batcher.submit(np.zeros((5, 1), np.float32))
        batcher.close()

    asyncio.run(scenario())
    cells = {family.name: family.cells for family in meter.families}
    assert cells["tandem_batch_padded_rows"] == {("7", "teacher"): 3}
    assert cells["tandem_shed"] == {("7", "teacher", "full"): 1}
    assert cells["tandem_queue_rows"] == {("7", "teacher"): 0}


def test_what_a_model_runs_on_is_told_to_prometheus():
    class Told(list):
        def set(self, name, description, tags, value):
            self.append((name, tags, value))

    told = Told()
    exporter = Exporter(told)
    exporter.watch(RunnerInfo(CountedAs("digits", "7", "teacher"), RunsOn("cuda", "fp16")))
    exporter.flush()
    tags = {"model": "digits", "version": "7", "role": "teacher", "device": "cuda", "precision": "fp16"}
    assert told == [("tandem_runner_info", tags, 1.0)]
