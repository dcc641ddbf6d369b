"""Which files the registry's versions need: for whoever wants to delete some."""

from typing import Any

from infra.tracking.registering import BUILD_TAG
from infra.tracking.registry import concrete
from infra.tracking.stores import client_of


def version_sources(uri: str) -> list[dict[str, Any]]:
    """One row a registered version of any model: `uri` (`models:/name/3`), `source` (path or URL of its files) and `build_id` (the
    build that registered it, empty when another tool did)."""
    client, rows, token = client_of(uri), [], None
    while True:
        page = client.search_model_versions(max_results=1000, page_token=token)
        for found in page:
            place = client.get_model_version_download_uri(found.name, found.version)
            rows.append(
                {"uri": concrete(found.name, found.version).uri, "source": place or "", "build_id": dict(found.tags).get(BUILD_TAG, "")}
            )
        token = page.token
        if not token:
            return rows
