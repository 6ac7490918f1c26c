from pathlib import Path

import pytest

from bnadapt.config import DataSettings
from bnadapt.data import download
from bnadapt.data.load import describe
from bnadapt.errors import DataError


def message(name: str, directory: Path) -> str:
    with pytest.raises(DataError) as raised:
        describe(DataSettings(name=name, dir=str(directory), download=True))
    return str(raised.value)


def test_an_unknown_set_gets_close_names(tmp_path: Path) -> None:
    assert message("fashon_mnist", tmp_path).startswith(
        "data.name=fashon_mnist: TensorFlow Datasets has no set of that name; close names: fashion_mnist"
    )


def test_an_unknown_configuration_gets_those_there_are(tmp_path: Path) -> None:
    text = message("cmaterdb/zzz", tmp_path)
    assert "no such configuration or version" in text
    assert "cmaterdb/bangla, cmaterdb/devanagari, cmaterdb/telugu" in text
    assert "version: 3.0.1" in message("mnist:9.9.9", tmp_path)


def test_a_configuration_beside_a_prepared_one_is_still_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cmaterdb" / "bangla" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert "no network to download from" in message("cmaterdb/telugu", tmp_path)


def test_without_a_network_it_fails_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    text = message("mnist", tmp_path)
    assert text.startswith(
        "data.name=mnist data.download=true: no network to download from (storage.googleapis.com: "
    )
    assert "prepare the set where there is one and name its directory by data.dir" in text


def test_a_set_to_be_fetched_by_hand_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "archive").touch()
    text = message("imagenet2012", tmp_path)
    assert "data.name=imagenet2012: cannot be downloaded and prepared" in text
    assert "manual_dir" in text


def test_any_answer_of_a_server_is_an_answer(tmp_path: Path) -> None:
    import http.server
    import threading

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        assert download._unreachable(f"http://127.0.0.1:{port}/gone") is None
        server.shutdown()
    assert download._unreachable(f"http://127.0.0.1:{port}/gone") is not None
