"""No code from models, no pickles, no secrets in what is stored or said, no server that was not listed."""

from __future__ import annotations

import ast
import json
import pickle
import random
import string
import threading
import time
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypo import config
from raypo.config.addresses import listed
from raypo.data.files import read_rows
from raypo.errors import ConfigError, DataError, OutputError, RewardError
from raypo.masking import masked
from raypo.scoring.http import HttpReward
from raypo.scoring.judge import Judge, Pair

CODE = Path(__file__).parents[1] / "raypo"
LOADS_CODE = {"from_pretrained", "LLM"}
NO_CODE_TO_LOAD = {"GenerationConfig"}  # plain JSON
SECRET = "a-token-that-nobody-may-see"
NO_SECRETS = [
    "data/hf_ultrafeedback_binarized.jsonl",
    "data/hf_UltraFeedbackBinarizedCleaned.jsonl",
    "asian-recipes-2024-english.jsonl",
    "runs/sk-learn-preference-sets-of-2024",
    "abfs://container@account.dfs.core.windows.net/x",
    "gs://anonymous@bucket/x",
    "http://host:8000/a@b",
    "http://[::1]:8000/a@b",
    "https://host/x?country_code=DE&author=me",
    "the bearer token in it; Bearer authentication is asked for",
    "bos_token = '<s>'",
    "image_token = '<image>', next_token: 5",
    "http://host/score?max_tokens=512&tokenizer=llama&stop_token=5&keywords=a",
    "/data/sk-Exp1-LARGE-lr1e-6-seed0/model",
    "/data/sk-proj-mallows-mpo-llama3-8b-instruct-ultrafeedback-seed0/model",
    "/data/hf_AlphaBetaGammaDeltaEpsilon/model",
]
ALPHANUMERIC = string.ascii_letters + string.digits
BASE64 = ALPHANUMERIC + "-_"
LEAST = {"policy": {"path": "p"}, "prompts": {"path": "q"}}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Every call in the code of a run: place, dotted name, node. Benchmarks make their own models."""
    for path in CODE.rglob("*.py"):
        if path.parent.name == "bench":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield f"{path.relative_to(CODE)}:{node.lineno}", ast.unparse(node.func), node


def given(node: ast.Call, name: str) -> Any:
    """The value of a keyword, where it is a literal."""
    found = [word.value for word in node.keywords if word.arg == name]
    return found[0].value if found and isinstance(found[0], ast.Constant) else None


def test_no_call_that_loads_a_model_takes_code_from_its_folder() -> None:
    """Each says trust_remote_code=False itself; weights are asked for as safetensors."""
    seen = 0
    for place, name, node in calls():
        owner, _, method = name.rpartition(".")
        if method in LOADS_CODE and owner not in NO_CODE_TO_LOAD:
            seen += 1
            assert given(node, "trust_remote_code") is False, place
            if owner.startswith("AutoModel"):
                assert given(node, "use_safetensors") is True, place
            if method == "LLM":
                assert given(node, "load_format") == "safetensors", place
    assert seen >= 5


def test_nothing_is_unpickled_or_evaluated() -> None:
    """Python's pickle, eval and exec, numpy with pickles: none is called; torch.load and YAML by their safe loaders."""
    banned = {"eval", "exec", "pickle.load", "pickle.loads", "yaml.unsafe_load", "yaml.full_load"}
    for place, name, node in calls():
        assert name not in banned, place
        assert name != "torch.load" or given(node, "weights_only") is True, place
        assert given(node, "allow_pickle") is not True, place
        if name == "yaml.load":
            assert [ast.unparse(word.value) for word in node.keywords] == ["_Loader"], place


class Trap:
    """An object whose pickle leaves a file where it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("nested", [False, True], ids=["column", "in a list"])
@pytest.mark.parametrize("kind", ["parquet", "dataset"])
def test_a_pickle_in_the_data_is_refused_and_not_run(nested: bool, kind: str, tmp_path: Path) -> None:
    """Ray Data has a column type of pickled objects, which Arrow reads wherever Ray Data is imported. First that the
    trap works: a plain reader springs it.
    """
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectArray

    sprung = tmp_path / "sprung"
    objects = ArrowPythonObjectArray.from_objects([Trap(sprung)])
    cells = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), objects) if nested else objects
    table = pa.table({"prompt": ["a"], "other": cells})
    path = tmp_path / "prompts.parquet"
    pq.write_table(table, path)
    pq.read_table(path).to_pylist()
    assert sprung.exists()
    sprung.unlink()
    if kind == "dataset":
        path = tmp_path / "saved"
        path.mkdir()
        with (
            pa.OSFile(str(path / "data-00000-of-00001.arrow"), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as writer,
        ):
            writer.write_table(table)
        state = {
            "_data_files": [{"filename": "data-00000-of-00001.arrow"}],
            "_fingerprint": "a",
            "_format_columns": None,
        }
        state |= {"_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": "train"}
        (path / "state.json").write_text(json.dumps(state))
        (path / "dataset_info.json").write_text("{}")
    with pytest.raises(DataError):
        read_rows(config.PromptsConfig(path=str(path)))
    assert not sprung.exists()


class Server(BaseHTTPRequestHandler):
    """Answers by path; remembers who was asked."""

    asked: list[str] = []  # noqa: RUF012 - of the one server

    def do_POST(self) -> None:
        self.asked.append(self.path)
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response({"/refuse": 401, "/echo": 401, "/words": 200}.get(self.path, 302))
        if self.path == "/from":
            self.send_header("Location", "/to")
        # what a proxy's page of an error may hold; 190 characters before it: the token is cut off by the message's end
        told = f"{'x' * 175} no right: {self.headers['Authorization']}" if self.path in ("/echo", "/words") else ""
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Server.asked.clear()
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{listening.server_address[1]}"
    listening.shutdown()
    thread.join()
    listening.server_close()


def reward(url: str, **changes: Any) -> HttpReward:
    return HttpReward(config.HttpReward(**{"type": "http", "name": "a", "url": url, "attempts": 1} | changes))


def test_a_token_is_sent_and_neither_stored_nor_said(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The config names the variable; a refused request says what was refused and not by which token."""
    monkeypatch.setenv("TOKEN_OF_TEST", SECRET)
    source = {"type": "http", "name": "a", "url": f"{server}/refuse", "token_env": "TOKEN_OF_TEST"}
    built = config.build(LEAST | {"rewards": [source]})
    assert SECRET not in config.as_yaml(built) + built.model_dump_json()
    with pytest.raises(RewardError, match="answered 401") as refused:
        reward(f"{server}/refuse", token_env="TOKEN_OF_TEST")(["p"], ["r"], [{}])
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("path", ["/echo", "/words"])
def test_a_server_that_repeats_the_token_is_quoted_without_it(
    path: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither whole nor its beginning, where the quotation ends; of a token that looks like any word too."""
    for token in (SECRET, "short1"):
        monkeypatch.setenv("TOKEN_OF_TEST", token)
        with pytest.raises(RewardError, match="no right") as refused:
            reward(server + path, token_env="TOKEN_OF_TEST")(["p"], ["r"], [{}])
        assert token[:4] not in str(refused.value)
        judge = config.JudgeConfig(model="m", url=server + path, token_env="TOKEN_OF_TEST", attempts=1)
        with pytest.raises(RewardError, match="no right") as refused:
            Judge(judge, tmp_path / "judge.sqlite")([Pair("p", "a", "b")])
        assert token[:4] not in str(refused.value)


def test_a_listed_server_cannot_send_a_request_elsewhere(server: str) -> None:
    """A redirect is an error, and the other address is never asked."""
    with pytest.raises(RewardError, match="answered 302"):
        reward(f"{server}/from")(["p"], ["r"], [{}])
    assert Server.asked == ["/from"]


@pytest.mark.parametrize(
    ("url", "hosts", "there"),
    [
        ("http://localhost:8000/score", ("localhost",), True),
        ("http://[::1]:8000/score", ("::1",), True),
        ("https://Judge.Example.com/score", ("*.example.com",), True),
        ("https://example.com.evil.org/score", ("*.example.com", "example.com"), False),
        ("https://localhost@evil.org/score", ("localhost",), False),
        ("https://notexample.com/score", ("*.example.com",), False),
    ],
)
def test_a_host_is_listed_by_its_whole_name(url: str, hosts: tuple[str, ...], there: bool) -> None:
    assert listed(url, hosts) is there


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("s3://KEY:SECRET@bucket/x", "s3://***@bucket/x"),
        ("http://host/x?api_key=SECRET&b=1", "http://host/x?api_key=***&b=1"),
        ("https://host/x?X-Amz-Signature=SECRET", "https://host/x?X-Amz-Signature=***"),
        ("hf_SECRETsecretSECRETsecretSECRETsec", "***"),
        ("rewards.0.api_key = 'SECRET': extra", "rewards.0.api_key = '***': extra"),
        ("{'token': 'SECRET'}", "{'token': '***'}"),
        ("prompts.max_prompt_tokens = 0", "prompts.max_prompt_tokens = 0"),
        ("token_env = 'NAME'", "token_env = 'NAME'"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("s3://minio:SEC/RET@bucket/x", "s3://***@bucket/x"),
        ("s3://KEY:SEC@RET@bucket/x", "s3://***@bucket/x"),
        ("AKIAABCDEFGHIJKLMNOP:SEC/RET@bucket", "***@bucket"),
        ("https://SECRET@host/x", "https://***@host/x"),
        ("abfs://box:SECRET@account/x", "abfs://***@account/x"),
        ("https://host/x?sig=SECRET&b=1", "https://host/x?sig=***&b=1"),
        ("https://host/x?code=SECRET", "https://host/x?code=***"),
        ("https://host/x?pwd=SECRET", "https://host/x?pwd=***"),
        ("told: Bearer a-SECRET-of-no-kind", "told: Bearer ***"),
        ("Authorization: Basic SECRET", "Authorization: Basic ***"),
        ("sk-proj-a_b-SECRETsecret0SECRETsecret-SECRET_s", "***"),
        ("sk-or-v1-0123456789abcdef0123456789abcdef", "***"),
        ("http://host/x?hub_token=SECRET&user_tokens=3", "http://host/x?hub_token=***&user_tokens=3"),
        ("hub_token = SECRET", "hub_token = ***"),
        ("eyJhbGciOiJIUzI1NiJ9.SECRETSECRET.SECRET", "***"),
        ("{'password': 'a, SECRET, of words', 'x': 1}", "{'password': '***', 'x': 1}"),
        ("template_arguments.api_key = ['SECRET', 'a']", "template_arguments.api_key = ['***', 'a']"),
        *((text, text) for text in NO_SECRETS),
    ],
)
def test_what_looks_like_a_secret_is_masked_and_nothing_else(text: str, left: str) -> None:
    assert masked(text) == left


@pytest.mark.parametrize(
    ("prefix", "letters", "count"),
    [
        ("sk-ant-api03-", BASE64, 95),
        ("sk-proj-", BASE64, 156),
        ("sk-svcacct-", BASE64, 120),
        ("sk-", ALPHANUMERIC, 48),
        ("sk-or-v1-", "0123456789abcdef", 64),
        ("hf_", ALPHANUMERIC, 34),
        ("ghp_", ALPHANUMERIC, 36),
    ],
)
def test_keys_as_they_are_issued_are_masked(prefix: str, letters: str, count: int) -> None:
    """300 of each kind, seeded: hyphens and underscores stand where they fall."""
    draw = random.Random(0)
    for _ in range(300):
        key = prefix + "".join(draw.choices(letters, k=count))
        assert masked(f"got {key} in it") == "got *** in it"


@pytest.mark.parametrize(
    "tree",
    [
        {"rewards": [{"type": "http", "name": "a", "url": "http://localhost", "token": SECRET}]},
        {"rewards": [{"type": "http", "name": "a", "url": f"http://me:{SECRET}@localhost"}]},
        {"prompts": {"path": f"s3://KEY:{SECRET}@bucket/p", "limit": 0}},
        {"evaluation": {"judge": {"model": "m", "url": "http://localhost", "api_key": SECRET}}},
        {"mirror": f"s3://KEY:{SECRET}@bucket"},
        {"mirror": f"s3://minio:a/{SECRET}@bucket"},
        {"mirror": f"s3://AKIAABCDEFGHIJKLMNOP:a/{SECRET}@bucket"},
        {"prompts": {"path": f"https://host/x?sig={SECRET}"}},
        {"prompts": {"path": "q", "template_arguments": {"api_key": SECRET}}},
        {"prompts": {"path": "q", "template_arguments": {"tools": [{"password": {"of": SECRET}}]}}},
        {"prompts": {"path": "q", "template_arguments": {f"https://host/?code={SECRET}": 1}}},
    ],
    ids=json.dumps,
)
def test_a_secret_in_a_config_is_refused_without_being_repeated(tree: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as refused:
        config.build(LEAST | tree)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("text", NO_SECRETS)
def test_what_is_no_secret_can_stand_in_a_config(text: str) -> None:
    arguments = {"said": text, "bos_token": "<s>", "image_token": "<i>", "mask_token": "_", "pad_token_id": 5}
    built = config.build(LEAST | {"prompts": {"path": "q", "template_arguments": arguments}})
    assert built.prompts.template_arguments["said"] == text


@pytest.mark.parametrize("where", ["override", "file"])
def test_the_line_that_is_no_yaml_is_not_shown(where: str, tmp_path: Path) -> None:
    """PyYAML quotes it; what is said is what is wrong, and where."""
    line = f"mirror: s3://KEY:{SECRET}@bucket/x: ["
    (tmp_path / "run.yaml").write_text("name: a\n" + (line if where == "file" else ""))
    overrides = [line.replace(": ", "=", 1)] if where == "override" else []
    with pytest.raises(ConfigError, match=r"not YAML: .*, line \d, column \d") as refused:
        config.load(tmp_path / "run.yaml", overrides)
    assert SECRET not in "".join(traceback.format_exception(refused.value))


def test_no_error_says_a_secret_and_one_that_was_carried_says_none_either() -> None:
    """In its text, its parts, and as Python shows it; also after Ray has carried it to another process."""
    first = OutputError(f"s3://KEY:{SECRET}@bucket cannot be opened", f"?sig={SECRET}", f"Bearer {SECRET}")
    for error in (first, pickle.loads(pickle.dumps(first))):
        assert SECRET not in f"{error} {error!r} {error.args} {vars(error)}"
        assert error.got == "s3://***@bucket cannot be opened"


@pytest.mark.parametrize("text", ["a", "a-", "a://", "?key", "sk-", "token=", ":", "x://a:", "-----BEGIN ", "[[("])
def test_a_long_text_is_masked_in_one_pass(text: str) -> None:
    """An error may carry a process's whole output; 300 000 characters of what the patterns begin with."""
    began = time.process_time()
    masked(text * (300_000 // len(text)))
    assert time.process_time() - began < 10
