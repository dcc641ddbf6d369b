"""A real server of the S3 protocol with one empty bucket."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def s3_folder(name: str) -> Iterator[str]:
    """URL, with address and keys, of a folder in an empty bucket `forge`, while the block runs."""
    import boto3  # tests that have no bucket should not wait for it
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys).create_bucket(Bucket="forge")
        yield f"s3://test:test@forge/{name}?endpoint_override={host}:{port}&scheme=http&region=us-east-1"
    finally:
        server.stop()
