"""The playground's routes: the page, its files and samples, their headers, and nothing beside them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from mirl_core import __version__
from mirl_core.bundled import CHARTS, MODELS
from mirl_core.tasks.plotting import METHOD_COLOURS
from mirl_server.apis.pages.playground import MEDIA_TYPES, Playground, find_files
from mirl_server.apis.pages.routes import add_pages
from mirl_server.apis.router import make_router
from mirl_server.cli.flags.server import mirl_parser, settings_from_flags
from mirl_server.middleware.stack import install_middleware
from mirl_server.settings.server import ServerSettings

FOLDER = Path(__file__).parents[5] / "clients" / "playground"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
MODULE = re.compile(r'^(?:import|\} from|export .* from) ?.*"(\.[^"]+)";$', re.MULTILINE)
SERVED = sorted(file for file in FOLDER.rglob("*") if file.suffix in MEDIA_TYPES)


def app_of(playground: Playground | None, **how: object) -> FastAPI:
    app = FastAPI(**how)  # type: ignore[arg-type]
    app.include_router(make_router())
    add_pages(app, lambda: "m", FOLDER / "no-swagger", playground)
    return app


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(app_of(Playground(FOLDER)), follow_redirects=False) as made:
        yield made


def test_a_checkout_has_the_files() -> None:
    assert find_files() == FOLDER


def test_the_page_has_a_strict_policy(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"] == POLICY
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert f'<span class="version">{__version__}</span>' in page.text
    assert '<a href="docs">' in page.text
    # What the policy forbids would silently not work.
    assert not re.findall(r"<style|<script(?! type=\"module\" src=)|\sstyle=|\son\w+=", page.text)


def test_head_answers_as_get_without_a_body(client: TestClient) -> None:
    for path in ("/", "/playground/app.js", "/playground/samples.json"):
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(client.get(path).content))


@pytest.mark.parametrize("file", SERVED, ids=lambda file: file.relative_to(FOLDER).as_posix())
def test_every_file_is_served_as_what_it_is(client: TestClient, file: Path) -> None:
    answer = client.get(f"/playground/{file.relative_to(FOLDER).as_posix()}")
    assert answer.status_code == 200
    assert answer.content == file.read_bytes()
    assert answer.headers["content-type"].partition(";")[0] == MEDIA_TYPES[file.suffix]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["content-security-policy"] == POLICY


def test_every_reference_leads_to_a_served_file(client: TestClient) -> None:
    links = re.findall(r'(?:src|href)="([^"]+)"', client.get("/").text)
    assert len(links) > 5
    assert [link for link in links if client.get(f"/{link}").status_code not in (200, 307)] == []
    imports = 0
    for file in SERVED:
        if file.suffix == ".js":
            for target in MODULE.findall(file.read_text()):
                imports += 1
                assert (file.parent / target).resolve() in SERVED, (file.name, target)
    assert imports > 40


def test_no_file_names_another_host() -> None:
    for file in [*SERVED, FOLDER / "index.html"]:
        if file.parent.name != "vendor":
            addresses = re.findall(r"(?:https?:)?//[\w-]+\.[\w.]+", file.read_text())
            assert set(addresses) <= {"http://www.w3.org"}, file.name


@pytest.mark.parametrize(
    "path",
    [
        "/playground", "/playground/", "/playground/README.md", "/playground/vendor/SHA256SUMS",
        "/playground/jsconfig.json", "/playground/index.html", "/playground/../pyproject.toml",
        "/playground/%2e%2e/python/README.md", "/playground/lib/..%2fapp.js", "/playground//app.js",
        "/playground/samples/mirl-charts/questions.json",
        "/playground/samples/mirl-charts/..%2fmanifest.json",
        "/playground/vendor/htm-preact.d.ts", "/playground/app.js%00.css",
    ],
)  # fmt: skip
async def test_nothing_else_is_reachable(client: TestClient, path: str) -> None:
    # As a server hands it over: a client would resolve the dots itself.
    scope = {
        "type": "http", "method": "GET", "path": unquote(path), "raw_path": path.encode(), "root_path": "",
        "query_string": b"", "headers": [],
    }  # fmt: skip
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await client.app(scope, receive, send)
    assert statuses == [404]


def test_samples_are_the_bundled_worlds_questions(client: TestClient) -> None:
    listed = client.get("/playground/samples.json").json()["data"]
    assert {entry["model"] for entry in listed} == set(MODELS)
    first = next(entry for entry in listed if entry["model"] == "mirl-charts")
    question = CHARTS.questions()[0]
    assert (first["question"], first["answer"]) == (question.question, question.answer)
    for entry in listed:
        picture = client.get(f"/{entry['file']}")
        assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png")
    assert client.get(f"/{first['file']}").content == question.file.read_bytes()


def test_it_can_be_switched_off() -> None:
    with TestClient(app_of(None)) as client:
        assert "curl -s http://testserver/v1/chat/completions" in client.get("/").text
        assert client.get("/playground/app.js").status_code == 404
    assert ServerSettings.load().playground is True
    assert ServerSettings.load(playground=False).playground is False
    parser = mirl_parser()
    assert settings_from_flags(parser.parse_args(["--no-playground"])) == {"playground": False}
    assert settings_from_flags(parser.parse_args([])) == {}


def test_without_documents_the_page_links_none() -> None:
    with TestClient(app_of(Playground(FOLDER), openapi_url=None)) as client:
        assert 'href="docs"' not in client.get("/").text


def test_the_page_needs_no_key_and_everything_that_it_asks_does() -> None:
    playground = Playground(FOLDER)
    app = app_of(playground)
    key = "0123456789abcdef-a"
    settings = ServerSettings.load(access={"keys": f"a: {key}"})
    install_middleware(app, settings, pages=playground.paths)
    with TestClient(app, follow_redirects=False) as client:
        assert client.get("/").status_code == 200
        for path in playground.files:
            assert client.get(path).status_code == 200, path
        for path in ("/v1/models", "/docs", "/openapi.json", "/playground/other.js"):
            assert client.get(path).status_code == 401, path


def test_what_is_vendored_is_what_was_published() -> None:
    (line,) = (FOLDER / "vendor" / "SHA256SUMS").read_text().splitlines()
    digest, name = line.split()
    assert digest == "72284e8e9079c87817145df1110f74e8a2aa040b2fc384922e18dfcb46fc1fd7"
    assert hashlib.sha256((FOLDER / "vendor" / name).read_bytes()).hexdigest() == digest
    assert "Apache License" in (FOLDER / "vendor" / "LICENSE-htm").read_text()
    assert "Jason Miller" in (FOLDER / "vendor" / "LICENSE-preact").read_text()


def test_a_method_has_its_colour_of_the_figures() -> None:
    theme = (FOLDER / "styles" / "theme.css").read_text()
    light = theme.partition("@media (prefers-color-scheme: dark)")[0]
    colours = dict(re.findall(r"\.method-(\w+) \{ --method: (#\w{6}); \}", light))
    assert set(colours) == {
        "mirl", "paper", "gate", "waves", "steered", "triple", "fast", "greedy", "sc",
    }  # fmt: skip
    assert colours == {name: METHOD_COLOURS[name].lower() for name in colours}


def test_the_page_is_small() -> None:
    size = sum(file.stat().st_size for file in [*SERVED, FOLDER / "index.html"])
    assert size < 150_000
