"""Runs requests on an in-process SGLang engine; started by search_lib/test_sglang.py.

    python tests/support/sglang_driver.py POLICY REQUESTS.json ANSWERS.json

Then it prints a line and generates until it is interrupted. SGLang's own processes import this
file again, so that it imports nothing at the top.
"""


async def main(policy: str, requests_path: str, answers_path: str) -> None:
    import asyncio
    import json
    import time
    from dataclasses import asdict
    from pathlib import Path

    import torch

    from search_lib.engines.base import Sampling
    from search_lib.engines.factory import EngineSettings, check_engine, open_engine

    def settings(*engine_args: str) -> EngineSettings:
        return EngineSettings("sglang", gpu_util=0.3, engine_args=engine_args)

    async def ask(prefix: list[int], n: int, sampling: dict):
        stop = tuple(sampling.pop("stop_token_ids"))
        try:
            blocks = await engine.generate(prefix, n, Sampling(**sampling, stop_token_ids=stop))
            return [asdict(block) for block in blocks]
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    work = json.loads(Path(requests_path).read_text())
    refusals = []
    for setting in work["engine_args"]:
        try:
            check_engine(settings(setting))
            refusals.append(None)
        except Exception as error:
            refusals.append(f"{type(error).__name__}: {error}")
    answers: dict = {"engine_args": refusals}
    limits = ("max_total_tokens=16384", "max_running_requests=64", "sleep_on_idle=true")
    engine = open_engine(settings(*limits), policy, "--piref_model", torch.device("cpu"))
    try:
        for name, requests in work["together"].items():
            answers[name] = await asyncio.gather(*(ask(*request) for request in requests))
        for name, requests in work["alone"].items():
            answers[name] = [await ask(*request) for request in requests]

        endless = Sampling(1.0, 1.0, 3000, (), 0)
        tasks = [asyncio.create_task(engine.generate([5, 6], 4, endless)) for _ in range(4)]
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
        await engine.generate([5, 6], 4, endless)
    finally:
        await engine.close()


if __name__ == "__main__":
    import asyncio
    import sys

    asyncio.run(main(*sys.argv[1:]))
