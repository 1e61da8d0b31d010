"""Pictures in a directory and on a real S3 server: written atomically, read, deleted, and failures with a reason."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.decisions import erasure
from service.decisions.database import Database
from service.decisions.errors import PictureStoreError
from service.decisions.picture_store import PictureStore
from service.decisions.writer import DecisionWriter
from service.metrics import Metrics
from tests.service.decisions.test_writer import PICTURES, record

pytestmark = pytest.mark.slow

ADDRESS, OTHER = "ab" + "0" * 62, "ab" + "1" * 62


@pytest.fixture(params=["directory", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "pictures") if request.param == "directory" else request.getfixturevalue("s3")


def test_a_picture_is_written_read_and_deleted(location) -> None:
    store = PictureStore(location)
    assert store.get(ADDRESS) is None
    for _ in range(2):
        store.put(ADDRESS, b"picture")
    assert store.get(ADDRESS) == b"picture" and PictureStore(location).get(ADDRESS) == b"picture"
    store.put(OTHER, b"another")
    store.delete([OTHER[::-1], ADDRESS, "c" * 64, OTHER])
    assert store.get(ADDRESS) is None and store.get(OTHER) is None
    store.delete([ADDRESS])


def test_a_large_picture_is_written_by_one_request(s3) -> None:
    import boto3

    PictureStore(s3).put(ADDRESS, bytes(6 * 2**20))
    _, _, bucket, prefix = s3.split("/")
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    found = client.head_object(Bucket=bucket, Key=f"{prefix}/{ADDRESS[:2]}/{ADDRESS}")
    assert found["ContentLength"] == 6 * 2**20
    assert "-" not in found["ETag"], "S3 names the number of parts after a hyphen"


def test_old_pictures_are_listed_with_their_sizes(location) -> None:
    store, now = PictureStore(location), datetime.now(UTC)
    store.put(ADDRESS, b"picture")
    assert [one for chunk in store.older_than(now - timedelta(hours=1)) for one in chunk] == []
    (found,) = (chunk for chunk in store.older_than(now + timedelta(hours=1)) if chunk)
    assert found == {ADDRESS: 7}


def test_a_directory_that_cannot_be_made_is_refused(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PictureStoreError, match="cannot be opened"):
        PictureStore(str(tmp_path / "file" / "pictures"))


@pytest.mark.parametrize("location", ["file:///pictures", "S3://bucket/x", "gcs://bucket", "s3:/bucket"])
def test_an_address_of_another_kind_is_not_taken_for_a_directory(location, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PictureStoreError, match="is not supported: give a directory, or s3://BUCKET"):
        PictureStore(location)
    assert not list(tmp_path.iterdir())


def test_a_store_that_fails_for_a_while_delays_and_loses_nothing(s3, s3_server, tmp_path, wait_until) -> None:
    from moto.server import ThreadedMotoServer

    database, store, metrics = Database(f"sqlite:///{tmp_path}/decisions.db"), PictureStore(s3), Metrics()
    database.prepare()
    writer = DecisionWriter(database, store, metrics, max_bytes=2**26, retention=None)
    host, port = s3_server.get_host_and_port()
    s3_server.stop()
    writer.start()
    records = [record() for _ in range(5)]
    assert all(map(writer.offer, records))
    with pytest.raises(PictureStoreError):
        store.put(ADDRESS, b"picture")
    again = ThreadedMotoServer(ip_address=host, port=port, verbose=False)
    again.start()
    wait_until(lambda: metrics.registry.get_sample_value("screening_decisions_total", {"result": "stored"}) == 5)
    writer.close(30)
    assert [store.get(one.sha256) for one in records[0].stored_pictures()] == [one.data for one in PICTURES]
    again.stop()
    with pytest.raises(PictureStoreError):
        erasure.erase(database, store, [one.answer.id for one in records], caller="lead", subject="test")
    database.close()


def test_a_bucket_that_is_not_there_is_an_error_of_the_store(s3) -> None:
    store = PictureStore("s3://another/screening")
    with pytest.raises(PictureStoreError, match="was not written to s3://another"):
        store.put(ADDRESS, b"picture")
    with pytest.raises(PictureStoreError, match="s3://another/screening cannot be listed"):
        list(store.older_than(datetime.now(UTC)))
