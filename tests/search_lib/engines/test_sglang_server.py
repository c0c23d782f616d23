"""The engine over SGLang servers: real ones and the router on a CPU."""

import asyncio
import json
import signal
import subprocess
import threading
from types import SimpleNamespace

import psutil
import pytest

import inference_eval
from search_lib.engines import http_service
from search_lib.engines.hf import HfEngine
from search_lib.engines.http_service import HttpService, get_json
from search_lib.engines.sglang_protocol import sampling_params
from search_lib.engines.sglang_server import SglangServerEngine
from search_lib.results.records import parse_record, read_records
from search_lib.urgency import Urgency, urgency
from tests.support.flags import replace_flags
from tests.support.http_servers import free_ports
from tests.support.logprobs import assert_logprobs_equal_a_forward_pass, logprob_requests
from tests.support.searches import as_command, make_args, request, responses
from tests.support.sglang_processes import (
    API_KEY,
    ROOT,
    SOON,
    descendants,
    no_survivors,
    sglang_environment,
    status_with_key,
)
from tests.support.tiny_models import save_tiny_classifier, save_tiny_policy
from tests.support.waiting import wait_for

pytestmark = pytest.mark.xdist_group("sglang_policy")

SCRIPT = ROOT / "scripts" / "serve_policy.sh"
VOCAB_SIZE = 291
MOST_RUNNING = 8
"""Requests that a server runs at once."""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(http_service, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(http_service, "LONGEST_DELAY", 0.5)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_tiny_classifier(folder / "value_model")
    save_tiny_policy(folder / "policy")
    # Long enough for blocks that take a while.
    config = json.loads((folder / "policy" / "config.json").read_text())
    (folder / "policy" / "config.json").write_text(
        json.dumps(config | {"max_position_embeddings": 4096})
    )
    return folder


@pytest.fixture(scope="module")
def served(models, tmp_path_factory):
    """Two servers and their router, with a key."""
    logs = tmp_path_factory.mktemp("servers")
    port = free_ports(4)
    environment = sglang_environment(
        NUM_SERVERS="2", PORT=str(port), LOG_DIR=str(logs), API_KEY=API_KEY
    )
    command = [
        str(SCRIPT),
        str(models / "policy"),
        "--sleep-on-idle",
        "--max-total-tokens",
        "16384",
        "--max-running-requests",
        str(MOST_RUNNING),
    ]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as script:
        try:
            line = script.stdout.readline()
            assert line.rstrip().endswith(f"--sglang_url http://127.0.0.1:{port}"), line
            urls = [f"http://127.0.0.1:{port + 1 + number}" for number in range(2)]
            yield SimpleNamespace(
                script=script,
                router=f"http://127.0.0.1:{port}",
                servers=urls,
                logs=[logs / f"server_{number}.log" for number in range(2)],
                log_dir=logs,
            )
        finally:
            script.terminate()
            script.wait(SOON)


def generate_all(urls, requests, one_by_one=False, is_batched=False):
    async def body():
        engine = SglangServerEngine(
            HttpService(urls, api_key=API_KEY), VOCAB_SIZE, is_batched=is_batched
        )
        try:
            if one_by_one:
                return [await engine.generate(*asked) for asked in requests]
            return await asyncio.gather(*(engine.generate(*asked) for asked in requests))
        finally:
            await engine.close()

    return asyncio.run(body())


def requests_in(url: str) -> int:
    """Requests that a server has, running or waiting."""
    (load,) = get_json(f"{url}/v1/loads", API_KEY)["loads"]
    return load["num_running_reqs"] + load["num_waiting_reqs"]


def test_blocks_are_for_those_with_the_key(served):
    asked = {"input_ids": [5], "sampling_params": {"max_new_tokens": 1}}
    for url in (served.router, *served.servers):
        for key, status in ((None, 401), ("wrong", 401), (API_KEY, 200)):
            assert status_with_key(f"{url}/generate", key, asked) == status
            assert status_with_key(f"{url}/get_model_info", key) == status


def test_the_key_is_in_no_list_of_processes_and_in_no_log(served):
    processes = descendants(served.script.pid)
    commands = [" ".join(process.cmdline()) for process in processes]
    assert sum("sglang" in command for command in commands) >= 3
    assert not [command for command in commands if API_KEY[:6] in command]
    logs = {path.name: path.read_text() for path in served.log_dir.iterdir()}
    assert logs.keys() == {"server_0.log", "server_1.log", "router.log"}
    assert "***" in logs["server_0.log"]
    assert not [name for name, text in logs.items() if API_KEY[:6] in text]


def test_greedy_blocks_equal_those_of_transformers(served, models):
    requests = [request(p, 2, temperature=0.0) for p in ([5, 6, 7], [8], [9] * 5)]

    async def reference():
        engine = HfEngine.load(str(models / "policy"), device="cpu")
        try:
            return await asyncio.gather(*(engine.generate(*asked) for asked in requests))
        finally:
            await engine.close()

    assert generate_all(served.servers[:1], requests) == asyncio.run(reference())


def test_log_probabilities_are_those_of_a_forward_pass(served, models):
    requests = logprob_requests()
    answers = generate_all([served.router], requests)
    assert_logprobs_equal_a_forward_pass(models / "policy", requests, answers)


def test_a_sample_depends_on_its_seed_and_not_on_its_batch_or_server(served):
    requests = [request([5 + i] * (1 + i % 4), 2, seed=i % 6) for i in range(12)]
    together = generate_all(served.servers[:1], requests, is_batched=True)
    assert generate_all(served.servers[1:], requests[::-1], one_by_one=True) == together[::-1]
    assert generate_all([served.router], requests) == together
    assert together[0][0] != together[0][1]


def test_the_router_sends_a_path_where_its_prefix_is_cached(served):
    prompts = [[20 + i, *range(20, 50)] for i in range(150)]  # more than it leaves to one server
    before = [log.read_text().count("POST /generate") for log in served.logs]

    async def body():
        service = HttpService([served.router], api_key=API_KEY)

        async def send(prefix):
            params = sampling_params(*request(prefix, stop=()), 0, VOCAB_SIZE)
            payload = {"input_ids": prefix, "sampling_params": params}
            return await service.post("/generate", payload, lambda reply: reply)

        first = await asyncio.gather(*map(send, prompts))
        paths = [p + reply["output_ids"] for p, reply in zip(prompts, first, strict=True)]
        # So few at once that it sees no need to level their load.
        second = [
            reply
            for start in range(0, len(paths), 50)
            for reply in await asyncio.gather(*map(send, paths[start : start + 50]))
        ]
        await service.close()
        return [reply["meta_info"]["cached_tokens"] for reply in second]

    # All but the token that was drawn last, which has not been computed.
    assert asyncio.run(body()) == [31 + 8 - 1] * 150
    after = [log.read_text().count("POST /generate") for log in served.logs]
    assert all(now > then for then, now in zip(before, after, strict=True))


def test_a_new_prefix_is_computed_once_for_all_samples(served):
    for url, requests_made in ((served.servers[0], 2), (served.router, 5)):
        prefix = [250 + requests_made, *range(20, 220)]
        before = sum(log.read_text().count("POST /generate") for log in served.logs)
        asked = request(prefix, 4, stop=())
        (blocks,) = generate_all([url], [asked], is_batched=url != served.router)
        # Once, and the last token again for each.
        computed = 4 * len(prefix) - sum(block.prefix_cached for block in blocks)
        assert computed == len(prefix) + 4
        after = sum(log.read_text().count("POST /generate") for log in served.logs)
        assert after - before == requests_made


def test_earlier_searches_are_served_first_and_guesses_last(served, models):
    served_by = served.servers[0]

    async def body():
        engine = SglangServerEngine.open(
            [served_by], str(models / "policy"), VOCAB_SIZE, 60, API_KEY
        )
        ended = []

        async def search(name, its_urgency, asked):
            urgency.set(its_urgency)
            await engine.generate(*asked)
            ended.append(name)

        asked = request([6], MOST_RUNNING, stop=())
        await engine.generate(*asked)  # so that its prefix needs not be sent ahead
        endless = request([5], MOST_RUNNING, max_new_tokens=2000, stop=())
        filling = asyncio.create_task(search("filling", Urgency(0), endless))
        await reached(served_by, MOST_RUNNING)
        searches = []
        for name, its_urgency in (
            ("guess", Urgency(0, guessed=True)),
            ("late", Urgency(9)),
            ("early", Urgency(3)),
        ):
            searches.append(asyncio.create_task(search(name, its_urgency, asked)))
            await reached(served_by, MOST_RUNNING * (1 + len(searches)))
        filling.cancel()
        await asyncio.gather(*searches)
        await engine.close()
        return ended

    assert asyncio.run(body()) == ["early", "late", "guess"]


async def reached(url, count):
    """Waits until a server has so many requests."""
    while await asyncio.to_thread(requests_in, url) < count:
        await asyncio.sleep(0.02)


def test_a_request_that_the_server_refuses_has_its_message(served):
    for url in (served.servers[0], served.router):
        with pytest.raises(ValueError, match=r"refuses, status 400: .*maximum context length"):
            generate_all([url], [request([5] * 4090)])
    with pytest.raises(ValueError, match="empty prefix"):
        generate_all([served.router], [request([])])


def test_a_greedy_search_gives_the_responses_of_transformers(served, models, tmp_path):
    args = make_args(models, tmp_path / "hf", temperature=0.0)
    inference_eval.main(args)
    expected = responses(args.output_path)
    for name, changes in {
        "server": {"sglang_url": (served.servers[0],)},
        "router": {"sglang_url": (served.router,)},
        "servers": {"sglang_url": tuple(served.servers)},
        "published": {"use_sglang_server": True, "sglang_port": port(served.router)},
    }.items():
        output_path = tmp_path / name / "records.jsonl"
        engine = "auto" if name == "published" else "sglang_server"
        changed = replace_flags(
            args, engine=engine, output_path=output_path, api_key=API_KEY, **changes
        )
        assert inference_eval.main(changed) == 0
        assert responses(output_path) == expected


def port(url: str) -> int:
    return int(url.rsplit(":", 1)[1])


def test_cancelled_requests_leave_the_servers(served):
    async def body():
        endless = [request([5, i], 2, max_new_tokens=3500, stop=()) for i in range(6)]
        engines = [
            SglangServerEngine(
                HttpService(urls, api_key=API_KEY), VOCAB_SIZE, is_batched=is_batched
            )
            for urls, is_batched in (([served.router], False), (served.servers, True))
        ]
        tasks = [
            asyncio.create_task(engine.generate(*asked)) for engine in engines for asked in endless
        ]
        while sum(map(requests_in, served.servers)) < 2 * MOST_RUNNING:
            await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for engine in engines:
            await engine.close()

    asyncio.run(body())
    wait_for(lambda: not any(map(requests_in, served.servers)), "servers without requests", 15)


def test_interrupted_a_run_leaves_whole_records_and_idle_servers(served, models, tmp_path):
    args = make_args(
        models,
        tmp_path,
        engine="sglang_server",
        sglang_url=(served.router,),
        max_problems=None,
        num_repetitions=16,
        max_concurrent=4,
    )
    command = [*as_command(args), "--api_key", API_KEY]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(
        lambda: args.output_path.exists() and args.output_path.stat().st_size, "a record", SOON
    )
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=SOON)
    assert process.returncode == 130
    assert "interrupted; the same command goes on" in errors
    assert all(map(parse_record, args.output_path.read_bytes().splitlines()))
    wait_for(lambda: not any(map(requests_in, served.servers)), "servers without requests", 15)


def test_a_server_killed_in_mid_run_costs_no_record(served, models, tmp_path, caplog):
    args = make_args(
        models,
        tmp_path / "calm",
        engine="sglang_server",
        api_key=API_KEY,
        num_repetitions=6,
        max_concurrent=4,
    )
    calm = replace_flags(args, sglang_url=(served.router,))
    inference_eval.main(calm)
    hit = replace_flags(
        args, sglang_url=(served.servers[0],), output_path=tmp_path / "hit" / "records.jsonl"
    )
    (victim,) = (
        process
        for process in psutil.Process(served.script.pid).children()
        if str(port(served.servers[0])) in process.cmdline()
    )
    killed_at = []

    def kill():
        wait_for(
            lambda: hit.output_path.exists() and hit.output_path.stat().st_size, "a record", SOON
        )
        victim.send_signal(signal.SIGKILL)
        killed_at.append(hit.output_path.read_bytes().count(b"\n"))

    killer = threading.Thread(target=kill)
    killer.start()
    assert inference_eval.main(hit) == 0
    killer.join()
    assert killed_at[0] < 18
    assert "trying for up to 600 s" in caplog.text
    assert responses(hit.output_path) == responses(calm.output_path)
    assert len(list(read_records(hit.output_path))) == 18


def test_stopped_the_script_ends_with_all_it_has_started(served):
    with no_survivors(served.script.pid):
        served.script.terminate()
        assert served.script.wait(SOON) == 143


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        ([], {}, "the first argument is the model: hub id or folder"),
        (["--context-length", "9"], {}, "the first argument is the model: hub id or folder"),
        (["m"], {"NUM_SERVERS": "0"}, "NUM_SERVERS is 0"),
        (["m"], {"CUDA_VISIBLE_DEVICES": "0,1", "TP_SIZE": "4"}, "TP_SIZE is 4, and there are 2"),
    ],
)
def test_serve_policy_names_what_is_wrong(arguments, variables, message, tmp_path):
    environment = sglang_environment(LOG_DIR=str(tmp_path), **variables)
    done = subprocess.run(
        [SCRIPT, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr
