"""Downloads against a real local server that fails in the ways servers fail."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rendering.download import DownloadPolicy, download
from rendering.sources.base import FetchError
from tests.rendering.mirror import Mirror, send

BODY = bytes(range(256)) * 1200
SHA = hashlib.sha256(BODY).hexdigest()
QUICK = DownloadPolicy(attempts=3, timeout_s=5.0, limit_s=20.0, backoff_s=0.5)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with Mirror().serving() as running:
        running.files["a.bin"] = BODY
        yield running


class Pauses(list):
    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def get(url: str, folder: Path, pauses: Pauses, **options):
    return download(url, lambda _: folder / "a.bin", policy=options.pop("policy", QUICK), sleep=pauses, **options)


def test_a_good_file_arrives_whole_and_names_itself_by_content(mirror, tmp_path):
    fetched = download(f"{mirror.url}/a.bin", lambda sha256: tmp_path / f"x-{sha256[:8]}", sha256=SHA, policy=QUICK)
    assert Path(fetched.path) == tmp_path / f"x-{SHA[:8]}" and Path(fetched.path).read_bytes() == BODY
    assert (fetched.sha256, fetched.bytes) == (SHA, len(BODY))
    assert [path.name for path in tmp_path.iterdir()] == [f"x-{SHA[:8]}"]


@pytest.mark.parametrize(("status", "reason"), [(404, "not_found"), (410, "not_found"), (403, "http_error")])
def test_answers_that_will_not_change_are_not_asked_again(mirror, tmp_path, status, reason):
    mirror.script["a.bin"] = [lambda handler, _: send(handler, b"", status)] * 5
    pauses = Pauses()
    with pytest.raises(FetchError) as caught:
        get(f"{mirror.url}/a.bin", tmp_path, pauses)
    assert caught.value.reason == reason and str(status) in caught.value.detail
    assert mirror.requests["a.bin"] == 1 and pauses == [] and list(tmp_path.iterdir()) == []


def test_passing_trouble_is_ridden_out_with_growing_pauses(mirror, tmp_path):
    mirror.script["a.bin"] = [
        lambda handler, _: send(handler, b"", 503),
        lambda handler, body: send(handler, body[:1000], declared=len(body)),
    ]
    pauses = Pauses()
    assert get(f"{mirror.url}/a.bin", tmp_path, pauses, sha256=SHA).bytes == len(BODY)
    assert mirror.requests["a.bin"] == 3 and pauses == [0.5, 1.0]


def test_the_pause_a_server_asks_for_is_kept_within_bounds(mirror, tmp_path):
    mirror.script["a.bin"] = [
        lambda handler, _: send(handler, b"", 429, Retry_After="7"),
        lambda handler, _: send(handler, b"", 503, Retry_After="9999"),
    ]
    pauses = Pauses()
    get(f"{mirror.url}/a.bin", tmp_path, pauses)
    assert pauses == [7.0, QUICK.backoff_limit_s]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda handler, _: send(handler, b"", 500), "server_error"),
        (lambda handler, body: send(handler, body[:1000], declared=len(body)), "truncated"),
        (lambda handler, body: send(handler, body[::-1]), "checksum"),
        (lambda handler, _: handler.connection.close(), "connection"),
    ],
)
def test_lasting_trouble_ends_after_the_allowed_attempts_and_leaves_nothing(mirror, tmp_path, answer, reason):
    mirror.script["a.bin"] = [answer] * 9
    with pytest.raises(FetchError) as caught:
        get(f"{mirror.url}/a.bin", tmp_path, Pauses(), sha256=SHA)
    assert caught.value.reason == reason
    assert mirror.requests["a.bin"] == QUICK.attempts and list(tmp_path.iterdir()) == []


def test_a_stalled_server_costs_one_timeout_per_attempt(mirror, tmp_path):
    mirror.script["a.bin"] = [mirror.stall] * 5
    with pytest.raises(FetchError) as caught:
        get(f"{mirror.url}/a.bin", tmp_path, Pauses(), policy=DownloadPolicy(attempts=2, timeout_s=0.3))
    assert caught.value.reason == "timeout" and mirror.requests["a.bin"] == 2


def test_a_failed_download_keeps_the_file_that_was_there(mirror, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"older but whole")
    mirror.script["a.bin"] = [lambda handler, body: send(handler, body[:10], declared=len(body))] * 5
    with pytest.raises(FetchError):
        get(f"{mirror.url}/a.bin", tmp_path, Pauses())
    assert (tmp_path / "a.bin").read_bytes() == b"older but whole"


def test_a_check_that_refuses_the_file_keeps_it_from_its_place(mirror, tmp_path):
    def refuse(_: Path) -> None:
        raise FetchError("bad_header", "not what it should be")

    with pytest.raises(FetchError, match="not what it should be"):
        get(f"{mirror.url}/a.bin", tmp_path, Pauses(), check=refuse)
    assert mirror.requests["a.bin"] == 1 and list(tmp_path.iterdir()) == []


def test_many_may_fetch_the_same_file_at_once(mirror, tmp_path):
    failures: list[Exception] = []

    def one() -> None:
        try:
            get(f"{mirror.url}/a.bin", tmp_path, Pauses(), sha256=SHA)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=one) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and (tmp_path / "a.bin").read_bytes() == BODY and len(list(tmp_path.iterdir())) == 1


def test_file_urls_work_and_other_schemes_do_not(tmp_path):
    (tmp_path / "source").write_bytes(BODY)
    assert get(f"file://{tmp_path}/source", tmp_path / "to", Pauses(), sha256=SHA).bytes == len(BODY)
    for url, reason in ((f"file://{tmp_path}/missing", "not_found"), ("ftp://127.0.0.1/x", "bad_url"), ("/etc/hostname", "bad_url")):
        with pytest.raises(FetchError) as caught:
            get(url, tmp_path / "to", Pauses())
        assert caught.value.reason == reason


def test_an_unreachable_server_is_a_connection_failure(tmp_path):
    with Mirror().serving() as gone:
        url = gone.url
    with pytest.raises(FetchError) as caught:
        get(f"{url}/a.bin", tmp_path, Pauses())
    assert caught.value.reason == "connection"
