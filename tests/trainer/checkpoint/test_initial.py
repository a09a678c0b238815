"""Weights to begin with: from a file, from the network, and never unchecked."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from agent.rundir.errors import DamagedCheckpointError, UnreadableFileError
from trainer.checkpoint.initial import fetch, load_weights


class Served(BaseHTTPRequestHandler):
    content = b""
    missing_bytes = 0

    def do_GET(self):
        if self.path != "/weights.pt":
            self.send_error(404)
            return
        self.send_response(200)
        length = len(self.content) + self.missing_bytes
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    Served.missing_bytes = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Served) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


@pytest.fixture
def weights(tmp_path):
    model = nn.Linear(2, 2)
    path = tmp_path / "weights.pt"
    torch.save({"epoch": 3, "model": model.state_dict()}, path)
    Served.content = path.read_bytes()
    return model, path


def sha256(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_what_is_fetched_is_verified_and_loaded(server, weights, tmp_path):
    saved, path = weights
    digest = sha256(path.read_bytes())
    model = nn.Linear(2, 2)

    found = fetch(f"{server}/weights.pt", tmp_path / "downloads", digest)
    load_weights(found, model)

    assert torch.equal(model.weight, saved.weight)
    assert [p.name for p in (tmp_path / "downloads").iterdir()] == [found.name]


def test_what_was_fetched_before_is_not_fetched_again(server, weights, tmp_path):
    digest = sha256(weights[1].read_bytes())
    first = fetch(f"{server}/weights.pt", tmp_path / "downloads", digest)
    Served.content = b"something else"

    assert fetch(f"{server}/weights.pt", tmp_path / "downloads", digest) == first


def test_another_digest_is_refused_and_nothing_is_left(server, weights, tmp_path):
    with pytest.raises(DamagedCheckpointError, match="was asked for"):
        fetch(f"{server}/weights.pt", tmp_path / "downloads", sha256(b"other"))

    assert list((tmp_path / "downloads").iterdir()) == []


def test_a_connection_that_ends_early_is_refused(server, weights, tmp_path):
    Served.missing_bytes = 7

    with pytest.raises(UnreadableFileError, match=r"of \d+ bytes|cannot be fetched"):
        fetch(f"{server}/weights.pt", tmp_path / "downloads", "")

    assert list((tmp_path / "downloads").iterdir()) == []


@pytest.mark.parametrize("path", ["nothing.pt", "weights"])
def test_an_address_without_a_file_is_refused(server, weights, tmp_path, path):
    with pytest.raises(UnreadableFileError, match="cannot be fetched: HTTP Error 404"):
        fetch(f"{server}/{path}", tmp_path / "downloads", "")


def test_nobody_at_the_address_is_refused(tmp_path):
    with pytest.raises(UnreadableFileError, match="cannot be fetched"):
        fetch("http://127.0.0.1:1/weights.pt", tmp_path / "downloads", "")


def test_a_damaged_file_is_not_even_unpickled(weights, tmp_path):
    path = weights[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))

    with pytest.raises(DamagedCheckpointError, match="is damaged"):
        fetch(str(path), tmp_path, "")


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s}]
)
def test_weights_are_found_where_they_usually_are(tmp_path, wrap):
    saved, model = nn.Linear(2, 2), nn.Linear(2, 2)
    state = {f"module.{name}": value for name, value in saved.state_dict().items()}
    torch.save(wrap(state), tmp_path / "w.pt")

    load_weights(tmp_path / "w.pt", model)

    assert torch.equal(model.weight, saved.weight)


def test_weights_may_come_as_safetensors(tmp_path):
    saved, model = nn.Linear(2, 2), nn.Linear(2, 2)
    save_file(saved.state_dict(), tmp_path / "w.safetensors")

    load_weights(fetch(str(tmp_path / "w.safetensors"), tmp_path, ""), model)

    assert torch.equal(model.weight, saved.weight)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"something else entirely", b"PK\x03\x04"])
def test_what_is_no_weights_is_refused_in_the_same_words(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(UnreadableFileError, match="no weights for this model"):
        load_weights(tmp_path / name, nn.Linear(2, 2))


class Malice:
    def __reduce__(self):
        return (print, ("this ran",))


def test_code_in_a_file_is_not_run(tmp_path, capsys):
    torch.save({"model": Malice()}, tmp_path / "w.pt")

    with pytest.raises(
        UnreadableFileError,
        match=r"this model: Unsupported global: GLOBAL print$",
    ):
        load_weights(tmp_path / "w.pt", nn.Linear(2, 2))

    assert capsys.readouterr().out == ""


def test_another_model_s_weights_are_refused(tmp_path):
    torch.save(nn.Linear(3, 3).state_dict(), tmp_path / "w.pt")

    with pytest.raises(UnreadableFileError, match="no weights for this model"):
        load_weights(tmp_path / "w.pt", nn.Linear(2, 2))


def test_an_unknown_digest_is_refused(weights, tmp_path):
    with pytest.raises(UnreadableFileError, match="not a digest that can be checked"):
        fetch(str(weights[1]), tmp_path, "crc:123")
