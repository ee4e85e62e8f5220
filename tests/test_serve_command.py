"""The command ``milepost serve``: how it begins, what it refuses, how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("openai")
pytest.importorskip("uvicorn")

import openai

import milepost.agents.local
import milepost.agents.local.server
from milepost.agents.local import tiny
from milepost.recipes import cli

GO = [{"role": "user", "content": "go"}]


@pytest.mark.parametrize(("words", "told"), [(["smolm2"], "did you mean 'smollm2'"), (["./no"], "model ./no: no such")])
def test_a_model_that_is_not_there_is_told(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", *words, "--port", "0"]) == 2
    assert told in capsys.readouterr().err


def test_a_port_in_use_and_a_missing_package_are_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", "tiny", "--port", str(port)]) == 2
    assert f"127.0.0.1 port {port}: it is in use; --port 0 takes a free one" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "milepost.agents.local.server")
    monkeypatch.delattr(milepost.agents.local, "server")
    assert cli.main(["serve", "tiny"]) == 2
    assert "pip install 'milepost[serve]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "number", "code", "last"),
    [("tiny", signal.SIGTERM, 0, ""), pytest.param("", signal.SIGINT, 130, "stopped\n", marks=pytest.mark.slow)],
)
def test_a_signal_ends_the_command_in_the_middle_of_an_answer_be_it_of_a_runs_model(
    model: str, number: int, code: int, last: str, tmp_path: Path
) -> None:
    if not model:
        model = str(tmp_path)
        tiny.build(tmp_path / "model")
    command = [sys.executable, "-m", "milepost.recipes.cli", "serve", model, "--port", "0", "--json"]
    process = subprocess.Popen(
        [*command, "--host", "0.0.0.0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        url = ready["base_url"].replace("0.0.0.0", "127.0.0.1")
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        assert [served.id for served in client.models.list()] == [ready["model"]] == [model]
        body = {"model": model, "messages": GO, "max_tokens": 4000}
        with socket.create_connection(("127.0.0.1", int(url.split(":")[2].split("/")[0]))) as sender:
            text = json.dumps(body).encode()
            sender.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(text))
            sender.sendall(text)
            client.models.list()
            process.send_signal(number)
            _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    warning = "warning: anyone who reaches 0.0.0.0 can use this model; it asks for no key\n"
    assert (process.returncode, told) == (code, f"{warning}serving {model} on {ready['base_url']}\n{last}")
