"""`/` and `/docs` on a FastAPI app that has pages of its own, as the backend's has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from mirl_core import __version__
from mirl_server.apis.__main__ import document
from mirl_server.apis.pages.document import tag_of
from mirl_server.apis.pages.routes import SWAGGER_FILES, add_pages
from mirl_server.apis.router import make_router

PAGES = ("/", "/docs")
FILES = {"/docs/docs.js": "text/javascript", "/docs/swagger-ui-bundle.js": "text/javascript",
         "/docs/swagger-ui.css": "text/css"}  # fmt: skip


@pytest.fixture
def swagger(tmp_path: Path) -> Path:
    """Return a folder with files in place of Swagger UI's."""
    for name in SWAGGER_FILES:
        (tmp_path / name).write_text(f"/* {name} */")
    return tmp_path


def client_of(swagger: Path, **how: object) -> TestClient:
    app = FastAPI(**how)  # type: ignore[arg-type]

    @app.get("/tokenize")
    async def tokenize() -> None: ...

    app.include_router(make_router())
    add_pages(app, lambda: "a/<model>", swagger)
    return TestClient(app, follow_redirects=False)


def test_pages_load_nothing_from_another_host(swagger: Path) -> None:
    client = client_of(swagger)
    for path in PAGES:
        page = client.get(path)
        assert page.status_code == 200
        # Whatever the page has a browser load; the address of the server itself stands in the curl command.
        loaded = re.findall(r'(?:src|href)="([^"]*)"', page.text)
        assert loaded
        assert not [target for target in loaded if "//" in target]
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "http" not in policy
        assert set(re.findall(r"(?:script|connect)-src ([^;]*)", policy)) == {"'self'"}
    assert "validatorUrl: null" in client.get("/docs/docs.js").text


def test_every_link_of_the_pages_is_answered(swagger: Path) -> None:
    client = client_of(swagger)
    links = re.findall(r'(?:src|href)="([\w./-]+)"', client.get("/docs").text)
    assert set(links) == {"docs/swagger-ui.css", "docs/swagger-ui-bundle.js", "docs/docs.js", "openapi.json"}
    for link in links:
        assert client.get(f"/{link}").status_code == 200
    for path, kind in FILES.items():
        assert client.get(path).headers["content-type"].startswith(kind)
    start = re.findall(r'href="([\w./-]+)"', client.get("/").text)
    assert start == ["docs", "v1/models", "health", "ready", "metrics"]


@pytest.mark.parametrize("path", [*PAGES, *FILES])
def test_a_head_is_a_get_without_a_body(swagger: Path, path: str) -> None:
    client = client_of(swagger)
    head = client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == client.get(path).headers["content-length"]


def test_the_start_page_has_a_request_for_this_server_and_model(swagger: Path) -> None:
    text = client_of(swagger).get("/").text
    assert "curl -s http://testserver/v1/chat/completions" in text
    assert '"model": "a/&lt;model&gt;"' in text
    assert f"MIRL {__version__}" in text
    assert "<model>" not in text


def test_behind_a_proxy_with_a_path(swagger: Path) -> None:
    text = client_of(swagger, root_path="/vlm").get("/").text
    assert "curl -s http://testserver/vlm/v1/chat/completions" in text


def test_redoc_leads_to_docs(swagger: Path) -> None:
    answer = client_of(swagger).get("/redoc")
    assert (answer.status_code, answer.headers["location"]) == (307, "docs")


def test_without_swagger_the_document_is_shown(tmp_path: Path) -> None:
    answer = client_of(tmp_path).get("/docs")
    assert (answer.status_code, answer.headers["location"]) == (307, "openapi.json")


def test_without_documents_there_is_one_page(swagger: Path) -> None:
    client = client_of(swagger, openapi_url=None)
    assert "docs" not in re.findall(r'href="([\w./-]+)"', client.get("/").text)
    for path in ("/docs", "/redoc", "/openapi.json", "/docs/docs.js"):
        assert client.get(path).status_code == 404


def test_the_document_is_named_and_every_operation_has_one_tag(swagger: Path) -> None:
    client = client_of(swagger)
    document = client.get("/openapi.json").json()
    assert (document["info"]["title"], document["info"]["version"]) == ("MIRL", __version__)
    tags = {
        path: operation["tags"]
        for path, operations in document["paths"].items()
        for operation in operations.values()
    }
    assert tags["/v1/chat/completions"] == ["Chat"]
    assert tags["/v1/mirl/score"] == ["MIRL"]
    assert tags["/tokenize"] == ["vLLM"]
    assert {tag for names in tags.values() for tag in names} == {tag["name"] for tag in document["tags"]}
    assert "/docs" not in tags
    assert client.get("/openapi.json").json() == document


def test_the_command_prints_the_document_of_the_routes() -> None:
    printed = json.loads(document())
    assert (printed["info"]["title"], printed["info"]["version"]) == ("MIRL", __version__)
    app = FastAPI()
    app.include_router(make_router())
    assert printed["paths"].keys() == app.openapi()["paths"].keys() >= {"/v1/mirl/score", "/ready"}
    assert {tag["name"] for tag in printed["tags"]} == {
        "Chat", "Responses", "Messages", "MIRL", "Models", "Health and metrics"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "tag"),
    [
        ("/v1/chat/completions/batch", "Chat"),
        ("/v1/responses/{response_id}/cancel", "Responses"),
        ("/v1/messages/count_tokens", "Messages"),
        ("/v1/models/{model}", "Models"),
        ("/v1/modelsx", "vLLM"),
        ("/health", "Health and metrics"),
        ("/v1/completions", "vLLM"),
        ("/", "vLLM"),
    ],
)
def test_tags_by_path(path: str, tag: str) -> None:
    assert tag_of(path) == tag
