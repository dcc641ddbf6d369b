"""Downloads against a real local server that fails in the ways servers fail."""

import email.utils
import fcntl
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rendering.download import DownloadPolicy, WrongBytes, download
from rendering.pace import Pace
from rendering.part_file import claimed, clean
from rendering.sources.base import FetchError
from rendering.transfer import Passing, seconds_to_wait
from tests.rendering import mirror as answers
from tests.rendering.mirror import Mirror, cut, send, status

ROOT = Path(__file__).resolve().parents[2]
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


def get(url: str | list[str], folder: Path, pauses: Pauses | None = None, **options):
    """A download that never really sleeps, without the random part of its pauses."""
    options = {"policy": QUICK, "chance": lambda: 0.0, "sleep": Pauses() if pauses is None else pauses} | options
    return download(url, lambda _: folder / "a.bin", **options)


def failure(url: str | list[str], folder: Path, **options) -> FetchError:
    with pytest.raises(FetchError) as caught:
        get(url, folder, **options)
    return caught.value


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def ranges(mirror: Mirror) -> list[str]:
    return [asked for _, asked in mirror.log]


def test_a_good_file_arrives_whole_and_names_itself_by_content(mirror, tmp_path):
    fetched = download(f"{mirror.url}/a.bin", lambda sha256: tmp_path / f"x-{sha256[:8]}", sha256=SHA, policy=QUICK)
    assert Path(fetched.path) == tmp_path / f"x-{SHA[:8]}" and Path(fetched.path).read_bytes() == BODY
    assert (fetched.sha256, fetched.bytes) == (SHA, len(BODY))
    assert names(tmp_path) == [f"x-{SHA[:8]}"]


@pytest.mark.parametrize(("code", "reason"), [(404, "not_found"), (410, "not_found"), (403, "http_error"), (401, "http_error")])
def test_answers_that_will_not_change_are_not_asked_again(mirror, tmp_path, code, reason):
    mirror.script["a.bin"] = [status(code)] * 5
    pauses = Pauses()
    error = failure(f"{mirror.url}/a.bin", tmp_path, pauses=pauses)
    assert error.reason == reason and str(code) in error.detail and not isinstance(error, Passing)
    assert mirror.requests["a.bin"] == 1 and pauses == [] and names(tmp_path) == []


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_passing_trouble_is_ridden_out(mirror, tmp_path, code):
    mirror.script["a.bin"] = [status(code), cut()]
    pauses = Pauses()
    assert get(f"{mirror.url}/a.bin", tmp_path, pauses, sha256=SHA).bytes == len(BODY)
    assert mirror.requests["a.bin"] == 3 and pauses == [0.5, 1.0]


def test_pauses_have_a_random_part_and_are_never_shorter_than_asked(mirror, tmp_path):
    mirror.script["a.bin"] = [status(503), status(503, Retry_After="7")]
    pauses = Pauses()
    get(f"{mirror.url}/a.bin", tmp_path, pauses, chance=iter([0.2, 1.0]).__next__)
    assert pauses == pytest.approx([0.5 * 1.1, 7.0 * 1.5])


def test_the_pause_a_server_asks_for_is_kept_within_bounds(mirror, tmp_path):
    date = email.utils.formatdate(time.time() + 40, usegmt=True)
    mirror.script["a.bin"] = [status(429, Retry_After="7"), status(503, Retry_After="9999"), status(429, Retry_After=date)]
    pauses = Pauses()
    get(f"{mirror.url}/a.bin", tmp_path, pauses, policy=DownloadPolicy(attempts=4, backoff_s=0.5))
    assert pauses[:2] == [7.0, QUICK.backoff_limit_s] and 30 < pauses[2] <= 40


@pytest.mark.parametrize(("text", "seconds"), [("7", 7.0), (" 0 ", 0.0), ("", None), ("soon", None), ("-3", None)])
def test_retry_after_in_seconds_or_not_at_all(text, seconds):
    assert seconds_to_wait(text) == seconds


def test_a_retry_after_date_in_the_past_asks_for_no_pause():
    assert seconds_to_wait("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (status(500), "server_error"),
        (status(429), "rate_limited"),
        (cut(with_etag=False), "truncated"),
        (answers.hang_up, "connection"),
    ],
)
def test_lasting_trouble_ends_after_the_allowed_attempts_and_leaves_nothing(mirror, tmp_path, answer, reason):
    mirror.script["a.bin"] = [answer] * 9
    error = failure(f"{mirror.url}/a.bin", tmp_path, sha256=SHA)
    assert error.reason == reason and isinstance(error, Passing)
    assert mirror.requests["a.bin"] == QUICK.attempts and names(tmp_path) == []


def test_a_file_without_a_declared_length_arrives(mirror, tmp_path):
    mirror.script["a.bin"] = [answers.chunked]
    assert get(f"{mirror.url}/a.bin", tmp_path).sha256 == SHA and mirror.requests["a.bin"] == 1


def test_chunks_that_end_early_are_noticed(mirror, tmp_path):
    mirror.script["a.bin"] = [answers.cut_chunked] * 9
    assert failure(f"{mirror.url}/a.bin", tmp_path).reason in ("truncated", "connection")
    assert mirror.requests["a.bin"] == QUICK.attempts and names(tmp_path) == []


@pytest.mark.parametrize("kind", ["stall", "silence"])
def test_a_stalled_server_costs_one_timeout_per_attempt(mirror, tmp_path, kind):
    mirror.script["a.bin"] = [getattr(mirror, kind)] * 5
    error = failure(f"{mirror.url}/a.bin", tmp_path, policy=DownloadPolicy(attempts=2, timeout_s=0.3))
    assert error.reason == "timeout" and mirror.requests["a.bin"] == 2


def test_a_trickle_is_cut_off_by_the_limit_of_an_attempt(mirror, tmp_path):
    def trickle(handler, body: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        while not mirror.released.wait(0.05):
            handler.wfile.write(b"x")

    mirror.script["a.bin"] = [trickle] * 2
    error = failure(f"{mirror.url}/a.bin", tmp_path, policy=DownloadPolicy(attempts=1, timeout_s=5.0, limit_s=0.3))
    assert error.reason == "timeout" and "not complete" in error.detail


def test_a_failed_download_keeps_the_file_that_was_there(mirror, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"older but whole")
    mirror.script["a.bin"] = [cut()] + [status(500)] * 5
    failure(f"{mirror.url}/a.bin", tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == b"older but whole"


def test_a_cut_download_goes_on_where_it_was_cut(mirror, tmp_path):
    mirror.script["a.bin"] = [cut(0.25), cut(0.5), answers.whole]
    mirror.script["a.bin"][1] = lambda handler, body: send(
        handler, body[76800:100000], 206, declared=len(body) - 76800, Content_Range=f"bytes 76800-{len(body) - 1}/{len(body)}"
    )
    assert get(f"{mirror.url}/a.bin", tmp_path, sha256=SHA).bytes == len(BODY)
    assert ranges(mirror) == ["", "bytes=76800-", "bytes=100000-"]
    assert (tmp_path / "a.bin").read_bytes() == BODY and names(tmp_path) == ["a.bin"]


def test_an_unfinished_download_is_continued_by_the_next_call(mirror, tmp_path):
    mirror.script["a.bin"] = [cut(0.25), status(500), status(500)]
    failure(f"{mirror.url}/a.bin", tmp_path)
    assert len(names(tmp_path)) == 2 and not (tmp_path / "a.bin").exists()
    get(f"{mirror.url}/a.bin", tmp_path, sha256=SHA)
    assert ranges(mirror)[-1] == "bytes=76800-" and names(tmp_path) == ["a.bin"]


def test_a_server_may_give_less_than_was_asked_for(mirror, tmp_path):
    def piece(handler, body: bytes) -> None:
        start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        end = min(start + 100_000, len(body))
        send(handler, body[start:end], 206, Content_Range=f"bytes {start}-{end - 1}/{len(body)}", ETag=answers.etag(body))

    mirror.script["a.bin"] = [cut(0.25), piece, piece, piece]
    assert get(f"{mirror.url}/a.bin", tmp_path, policy=DownloadPolicy(attempts=4)).sha256 == SHA
    assert ranges(mirror) == ["", "bytes=76800-", "bytes=176800-", "bytes=276800-"]


@pytest.mark.parametrize("answer", [answers.ignoring_range, answers.wrong_range, status(416)])
def test_a_server_that_cannot_continue_gives_the_whole_file(mirror, tmp_path, answer):
    mirror.script["a.bin"] = [cut(), answer]
    assert get(f"{mirror.url}/a.bin", tmp_path).sha256 == SHA
    assert (tmp_path / "a.bin").read_bytes() == BODY and names(tmp_path) == ["a.bin"]


def test_a_file_that_changed_in_the_meantime_is_not_a_mixture(mirror, tmp_path):
    mirror.script["a.bin"] = [cut(), status(500), status(500)]
    failure(f"{mirror.url}/a.bin", tmp_path)
    mirror.files["a.bin"] = BODY[::-1]
    assert get(f"{mirror.url}/a.bin", tmp_path).sha256 == hashlib.sha256(BODY[::-1]).hexdigest()
    assert ranges(mirror)[-1] == f"bytes={len(BODY) // 2}-"


def test_a_server_that_names_no_version_is_asked_for_the_whole_file_again(mirror, tmp_path):
    mirror.script["a.bin"] = [cut(with_etag=False)]
    get(f"{mirror.url}/a.bin", tmp_path, sha256=SHA)
    assert ranges(mirror) == ["", ""]


@pytest.mark.parametrize(
    ("headers", "continued"),
    [
        ({"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}, "Wed, 21 Oct 2015 07:28:00 GMT"),
        ({"ETag": 'W/"weak"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
    ],
)
def test_only_strong_names_of_a_version_are_used_to_continue(mirror, tmp_path, headers, continued):
    """RFC 9110, 13.1.5: a weak ETag must not stand in If-Range."""
    seen: list[str | None] = []

    def note(handler, body: bytes) -> None:
        seen.append(handler.headers.get("If-Range"))
        answers.ignoring_range(handler, body)

    mirror.script["a.bin"] = [lambda handler, body: send(handler, body[:999], declared=len(body), **headers), note]
    get(f"{mirror.url}/a.bin", tmp_path, sha256=SHA)
    assert seen == [continued]


def test_wrong_bytes_are_asked_for_again_until_they_repeat(mirror, tmp_path):
    mirror.script["a.bin"] = [answers.instead(b"<html>busy 1</html>"), answers.instead(b"<html>busy 2</html>")]
    assert get(f"{mirror.url}/a.bin", tmp_path, sha256=SHA).sha256 == SHA
    mirror.script["a.bin"] = [answers.instead(BODY[::-1])] * 9
    before = mirror.requests["a.bin"]
    error = failure(f"{mirror.url}/a.bin", tmp_path, sha256=SHA, policy=DownloadPolicy(attempts=8))
    assert isinstance(error, WrongBytes) and error.reason == "checksum" and mirror.requests["a.bin"] - before == 2
    assert error.sample == BODY[::-1][: 256 << 10] and error.sha256 == hashlib.sha256(BODY[::-1]).hexdigest() and error.size == len(BODY)
    assert names(tmp_path) == ["a.bin"]


def test_a_check_that_refuses_the_file_keeps_it_from_its_place(mirror, tmp_path):
    def refuse(_: Path) -> None:
        raise FetchError("bad_header", "not what it should be")

    error = failure(f"{mirror.url}/a.bin", tmp_path, check=refuse)
    assert error.reason == "bad_header" and mirror.requests["a.bin"] == 2 and names(tmp_path) == []
    failure(f"{mirror.url}/a.bin", tmp_path, check=refuse, sha256=SHA)
    assert mirror.requests["a.bin"] == 3, "bytes with the right checksum will not become others"


def test_mirrors_are_asked_in_order_and_without_a_pause(mirror, tmp_path):
    mirror.files |= {"2/a.bin": BODY, "3/a.bin": BODY}
    urls = [f"{mirror.url}/{name}" for name in ("1/a.bin", "2/a.bin", "3/a.bin")]
    mirror.script["2/a.bin"] = [cut()]
    pauses = Pauses()
    assert get(urls, tmp_path, pauses, sha256=SHA).bytes == len(BODY)
    assert [path for path, _ in mirror.log] == ["1/a.bin", "2/a.bin", "3/a.bin"] and pauses == [] and names(tmp_path) == ["a.bin"]


def test_the_trouble_of_the_most_promising_mirror_stands_for_the_file(mirror, tmp_path):
    urls = [f"{mirror.url}/{name}" for name in ("gone.bin", "a.bin")]
    mirror.script["a.bin"] = [status(503)] * 9
    assert failure(urls, tmp_path).reason == "server_error"
    assert mirror.requests == {"gone.bin": 1, "a.bin": QUICK.attempts}
    assert failure([f"{mirror.url}/x", f"file://{tmp_path}/y"], tmp_path).reason == "not_found"


def test_many_may_fetch_the_same_file_at_once(mirror, tmp_path):
    failures: list[Exception] = []

    def one() -> None:
        try:
            get(f"{mirror.url}/a.bin", tmp_path, sha256=SHA)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=one) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and (tmp_path / "a.bin").read_bytes() == BODY and names(tmp_path) == ["a.bin"]


def test_file_urls_work_and_other_schemes_do_not(tmp_path):
    (tmp_path / "source").write_bytes(BODY)
    assert get(f"file://{tmp_path}/source", tmp_path / "to", sha256=SHA).bytes == len(BODY)
    for url, reason in ((f"file://{tmp_path}/missing", "not_found"), ("ftp://127.0.0.1/x", "bad_url"), ("/etc/hostname", "bad_url")):
        assert failure(url, tmp_path / "to").reason == reason


def test_a_redirect_is_followed_and_may_not_lead_to_a_local_file(mirror, tmp_path):
    mirror.script["moved.bin"] = [status(302, Location="/a.bin"), status(302, Location=f"file://{tmp_path}/secret")]
    (tmp_path / "secret").write_bytes(b"secret")
    assert get(f"{mirror.url}/moved.bin", tmp_path / "to", sha256=SHA).bytes == len(BODY)
    (tmp_path / "to" / "a.bin").unlink()
    assert failure(f"{mirror.url}/moved.bin", tmp_path / "to").reason == "bad_url" and names(tmp_path / "to") == []


def test_an_unreachable_server_is_a_connection_failure(tmp_path):
    with Mirror().serving() as gone:
        url = gone.url
    assert failure(f"{url}/a.bin", tmp_path).reason == "connection"


def test_a_file_without_end_is_given_up(mirror, tmp_path):
    error = failure(f"{mirror.url}/a.bin", tmp_path, policy=DownloadPolicy(max_bytes=100_000))
    assert error.reason == "too_large" and mirror.requests["a.bin"] == 1 and names(tmp_path) == []


class Clock:
    """Time that passes by sleeping only, for one thread."""

    def __init__(self) -> None:
        self.now = 100.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_the_pace_is_kept_over_a_whole_download(mirror, tmp_path):
    clock = Clock()
    get(f"{mirror.url}/a.bin", tmp_path, pace=Pace(51_200.0, lambda: clock.now, clock.sleep))
    assert clock.now - 100.0 == pytest.approx(len(BODY) / 51_200.0)


def test_threads_share_one_pace():
    due: list[float] = []
    pace = Pace(1000.0, lambda: 0.0, due.append)  # A clock that stands still shows when each booking is due.
    threads = [threading.Thread(target=pace.spend, args=(500,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(due) == [0.5 * number for number in range(1, 9)]


CHILD = """
import sys
from pathlib import Path
from rendering.download import download
print("ready", flush=True)
sys.stdin.readline()
fetched = download(sys.argv[1], lambda _: Path(sys.argv[2]) / "a.bin", sha256=sys.argv[3])
print(fetched.sha256, flush=True)
"""


def child(url: str, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", CHILD, url, str(folder), SHA]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def start(process: subprocess.Popen) -> None:
    assert process.stdout and process.stdin and process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()


def wait_for(condition, limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_the_download_of_a_killed_process_is_continued(mirror, tmp_path):
    """SIGKILL in the middle of a body; the next process asks for the rest only."""
    mirror.script["a.bin"] = [mirror.stall]
    process = child(f"{mirror.url}/a.bin", tmp_path)
    start(process)
    wait_for(lambda: any(path.suffix == ".part" and path.stat().st_size == len(BODY) // 2 for path in tmp_path.iterdir()))
    clean(tmp_path)
    assert len(names(tmp_path)) == 2, "what a living process writes is not cleaned"
    process.kill()
    process.communicate()
    assert len(names(tmp_path)) == 2
    assert get(f"{mirror.url}/a.bin", tmp_path, sha256=SHA).bytes == len(BODY)
    assert ranges(mirror) == ["", f"bytes={len(BODY) // 2}-"] and names(tmp_path) == ["a.bin"]


def test_two_processes_at_the_same_file_do_not_collide(mirror, tmp_path):
    gate = threading.Barrier(2, timeout=20)

    def together(handler, body: bytes) -> None:
        gate.wait()
        answers.whole(handler, body)

    mirror.script["a.bin"] = [together] * 2
    processes = [child(f"{mirror.url}/a.bin", tmp_path) for _ in range(2)]
    for process in processes:
        start(process)
    assert [process.communicate(timeout=30)[0].strip() for process in processes] == [SHA, SHA]
    assert (tmp_path / "a.bin").read_bytes() == BODY and names(tmp_path) == ["a.bin"]


def test_a_name_that_is_taken_away_while_we_wait_for_it_is_not_written_to(tmp_path, monkeypatch):
    """Between opening a part file and locking it, its owner may finish: the lock is then one on a file without a name."""
    flock, url = fcntl.flock, "http://x/a"

    def late(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        for path in tmp_path.glob(".*.part"):
            os.replace(path, tmp_path / "finished")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with claimed(tmp_path, url) as part:
        part.restart('"v"', 5)
        part.write(b"12345")
        part.finish(tmp_path / "ours")
    assert (tmp_path / "ours").read_bytes() == b"12345" and (tmp_path / "finished").read_bytes() == b""


def test_cleaning_takes_what_the_dead_left_and_nothing_else(tmp_path):
    def leave(url: str) -> None:
        with claimed(tmp_path, url) as part:
            part.restart('"v"', 10)
            part.write(b"12345")

    leave("http://x/wanted")
    leave("http://x/unwanted")
    (tmp_path / "done.glb").write_bytes(b"done")
    for name, age_s in ((".old.tmp", 7200), (".new.tmp", 10)):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    with claimed(tmp_path, "http://x/living") as living:
        living.restart('"v"', 10)
        living.write(b"1")
        clean(tmp_path, ["http://x/wanted"])
        assert len([name for name in names(tmp_path) if name.endswith(".part")]) == 2
    assert {".new.tmp", "done.glb"} <= set(names(tmp_path)) and ".old.tmp" not in names(tmp_path)
    clean(tmp_path)
    assert names(tmp_path) == [".new.tmp", "done.glb"]
