"""Runs requests on an in-process SGLang engine; started by tests/search_lib/engines/test_sglang.py.

    python tests/support/sglang_driver.py POLICY REQUESTS.json ANSWERS.json

Then it prints a line and generates until it is interrupted. SGLang's own processes import this
file again, so that it imports nothing at the top.
"""


async def main(policy: str, requests_path: str, answers_path: str) -> None:
    import asyncio
    import contextlib
    import json
    import sys
    import time
    from dataclasses import asdict
    from pathlib import Path

    import torch

    from search_lib.engines.base import Expansion, Sampling
    from search_lib.engines.choice import settle_engine
    from search_lib.engines.factory import open_engine
    from search_lib.engines.flags import EngineFlags

    def flags(*engine_args: str) -> EngineFlags:
        return EngineFlags("sglang", gpu_util=0.3, engine_args=engine_args)

    async def ask(expansion: dict, sampling: dict):
        try:
            blocks = await engine.generate(Expansion(**expansion), Sampling(**sampling))
            return [asdict(block) for block in blocks]
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    work = json.loads(Path(requests_path).read_text())
    refusals = []
    for setting in work["engine_args"]:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # the test reads the other one
                settle_engine(flags(setting))
            refusals.append(None)
        except Exception as error:
            refusals.append(f"{type(error).__name__}: {error}")
    answers: dict = {"engine_args": refusals}
    limits = ("max_total_tokens=16384", "max_running_requests=64", "sleep_on_idle=true")
    engine = open_engine(flags(*limits), policy, torch.device("cpu"))
    try:
        for name, requests in work["together"].items():
            answers[name] = await asyncio.gather(*(ask(*request) for request in requests))
        for name, requests in work["alone"].items():
            answers[name] = [await ask(*request) for request in requests]

        endless = Expansion(0, [5, 6], 4, 3000, (), 0), Sampling(1.0, 1.0)
        tasks = [asyncio.create_task(engine.generate(*endless)) for _ in range(4)]
        states = engine._engine.tokenizer_manager.rid_to_state
        while len(states) < 16:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        started = time.monotonic()
        while states and time.monotonic() < started + 60:
            await asyncio.sleep(0.01)
        answers["seconds_to_abort"] = time.monotonic() - started
        answers["states_left"] = len(states)
        Path(answers_path).write_text(json.dumps(answers))
        print("generating", flush=True)
        await engine.generate(*endless)
    finally:
        await engine.close()


if __name__ == "__main__":
    import asyncio
    import sys

    asyncio.run(main(*sys.argv[1:]))
