"""Our own requests to a dashboard carry Ray's token where token authentication is on."""

import os
import subprocess
import sys

import pytest

from tests.infra.deployment import ROOT

# Ray's own middleware guards the page; what Ray reads of the environment it keeps, hence a process of its own.
PROGRAM = """
import asyncio, sys, threading
from aiohttp import web
import aiohttp, requests
from ray._private.authentication.http_token_authentication import get_token_auth_middleware
from infra.cluster import dashboard_version

async def version(request):
    return web.json_response({"ray_version": "9.9"})

async def serve():
    app = web.Application(middlewares=[get_token_auth_middleware(aiohttp)])
    app.add_routes([web.get("/api/version", version)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner.addresses[0][1]

loop = asyncio.new_event_loop()
port = loop.run_until_complete(serve())
threading.Thread(target=loop.run_forever, daemon=True).start()
address = f"http://127.0.0.1:{port}"
print(requests.get(f"{address}/api/version", timeout=10).status_code, dashboard_version(address))
"""


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef"}, "401 9.9"),
        ({"RAY_AUTH_MODE": "disabled"}, "200 9.9"),
    ],
    ids=["token", "disabled"],
)
def test_version_of_a_guarded_dashboard(settings, answer, tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {"HOME": str(tmp_path)} | settings
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == answer, done.stderr
