"""Tables and prompts in an object store: moto's S3 server, over HTTP, through pyarrow as in a run."""

from __future__ import annotations

import gzip
import io
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from test_tables import prompts

from raypo.config import PromptsConfig
from raypo.data import files
from raypo.data.files import read_rows
from raypo.errors import DataError, IntegrityError, OutputError
from raypo.stages import tables
from raypo.stages.mirror import Mirror

pytest.importorskip("moto.server", reason="moto is not installed: `uv sync` installs the group dev")

KEYS = {
    "AWS_ACCESS_KEY_ID": "of-nobody",
    "AWS_SECRET_ACCESS_KEY": "of-nobody",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture
def endpoint() -> Iterator[str]:
    """The address of an S3 server with one bucket, `bucket`, named in the environment as on a cluster."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (KEYS | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}).items():
            patch.setenv(name, value)
        httpx.put(f"http://{host}:{port}/bucket").raise_for_status()
        try:
            yield f"http://{host}:{port}"
        finally:
            server.stop()


def put(path: str, data: bytes) -> None:
    """Write an object."""
    with store().open_output_stream(path, compression=None) as stream:
        stream.write(data)


def store() -> pafs.FileSystem:
    """The server as pyarrow sees it: it takes the endpoint from the environment for URIs alone."""
    return pafs.FileSystem.from_uri("s3://bucket")[0]


@pytest.mark.usefixtures("endpoint")
def test_a_table_goes_to_an_object_store_and_comes_back() -> None:
    """Rows b, a go in; a, b come out. Before the manifest there is nothing, and a second attempt adds no rows."""
    folder = "s3://bucket/runs/one/prompts"
    assert tables.read(folder) is None
    tables.commit(folder, prompts("b", "a"), "prompts", {"dropped": 4})
    table, manifest = tables.read(folder)
    assert table["prompt_id"].to_pylist() == ["a", "b"]
    assert (manifest.rows, manifest.facts) == (2, {"dropped": 4})
    [name] = tables.files_of(folder)
    assert name.startswith("s3://bucket/runs/one/prompts/attempt-")
    tables.commit(folder, prompts("c"), "prompts")
    assert tables.read(folder)[0]["prompt_id"].to_pylist() == ["c"]


@pytest.mark.usefixtures("endpoint")
def test_other_rows_and_a_missing_object_are_refused() -> None:
    """The same object name with another row in it; then no object at all."""
    folder = "s3://bucket/t"
    [name] = tables.commit(folder, prompts("a"), "prompts").files
    sink = io.BytesIO()
    pq.write_table(prompts("z"), sink)
    put(f"bucket/t/{name}", sink.getvalue())
    with pytest.raises(IntegrityError, match="rows differ"):
        tables.read(folder)
    put(f"bucket/t/{name}", sink.getvalue()[:-10])
    with pytest.raises(IntegrityError, match="delete the folder"):
        tables.read(folder)
    store().delete_file(f"bucket/t/{name}")
    with pytest.raises(IntegrityError, match="delete the folder"):
        tables.read(folder)


@pytest.mark.usefixtures("endpoint")
def test_a_bucket_that_is_not_there_is_not_made() -> None:
    """A misspelt bucket must not become somebody's new one."""
    with pytest.raises(OutputError, match="'other' not found"):
        tables.commit("s3://other/t", prompts("a"), "prompts")


@pytest.mark.usefixtures("endpoint")
def test_prompts_are_read_from_objects_and_from_folders_of_them() -> None:
    """In the order of their names, with file and line; compressed ones too."""
    put("bucket/p/1.jsonl", b'{"prompt": "a"}\n{"prompt": "b"}\n')
    put("bucket/p/2.jsonl.gz", gzip.compress(b'{"prompt": "c"}\n'))
    put("bucket/p/notes.txt", b"no prompts")
    found = [(row.place, row.values["prompt"]) for row in read_rows(PromptsConfig(path="s3://bucket/p"))]
    assert found == [("1.jsonl line 1", "a"), ("1.jsonl line 2", "b"), ("2.jsonl.gz line 1", "c")]
    [only] = read_rows(PromptsConfig(path="s3://bucket/p/2.jsonl.gz"))
    assert only.values == {"prompt": "c"}
    with pytest.raises(DataError, match="no such file"):
        read_rows(PromptsConfig(path="s3://bucket/p/3.jsonl"))


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that does not answer: a port on which nobody listens."""
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}).items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow
@pytest.mark.usefixtures("away")
def test_a_store_that_is_away_is_an_error_that_asks_for_nothing_to_be_deleted() -> None:
    """No manifest can be seen, which is not the same as there being none: the stage must not be done again."""
    with pytest.raises(OutputError, match="cannot be read") as caught:
        tables.read("s3://bucket/t")
    assert "delete" not in str(caught.value)
    with pytest.raises(OutputError, match="cannot write"):
        tables.commit("s3://bucket/t", prompts("a"), "prompts")
    with pytest.raises(DataError, match="cannot be opened"):
        read_rows(PromptsConfig(path="s3://bucket/p"))


@pytest.mark.parametrize("uri", ["gs://anonymous@bucket/kept", "gcs://anonymous@bucket/kept"])
def test_a_google_store_that_is_away_is_told_in_seconds(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens on port 9; the client alone would ask for a quarter of an hour."""
    monkeypatch.setattr(files, "GOOGLE_RETRIES_S", 1)
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", "http://127.0.0.1:9")
    filesystem, path = tables.resolve(uri)
    assert isinstance(filesystem, pafs.GcsFileSystem)
    assert path == "bucket/kept"
    began = time.monotonic()
    with pytest.raises(OutputError, match=rf"{uri}/run cannot be read.*Could not connect"):
        Mirror(str(tmp_path / "run"), f"{uri}/run").restore()
    with pytest.raises(DataError, match=rf"{uri}/p.jsonl cannot be opened.*Could not connect"):
        read_rows(PromptsConfig(path=f"{uri}/p.jsonl"))
    assert time.monotonic() - began < 60
    assert not (tmp_path / "run").exists()


def test_an_unknown_kind_of_storage_is_refused() -> None:
    with pytest.raises(OutputError, match="cannot be opened"):
        tables.commit("ftp://host/t", prompts("a"), "prompts")
    with pytest.raises(DataError, match="cannot be opened"):
        read_rows(PromptsConfig(path="ftp://host/p.jsonl"))
