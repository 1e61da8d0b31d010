"""Rules for every path: its second name, HEAD, other spellings, pages of other origins, and the interactive page."""

from __future__ import annotations

import json
import logging
import re
import socket
import tomllib

import pytest

from service.http import docs

pytestmark = pytest.mark.anyio

GETS = ("/livez", "/readyz", "/startupz", "/metrics", "/openapi.json", "/docs", "/docs/start.js")
ORIGIN = "https://shop.example"


@pytest.mark.parametrize("prefix", ["", "/v1"])
@pytest.mark.parametrize("path", [*GETS, "/"])
async def test_head_is_get_without_the_body(start, prefix, path) -> None:
    async with start() as running:
        await running.client.get("/metrics")  # its first exposition is shorter
        head, get = await running.client.head(prefix + path), await running.client.get(prefix + path)
    assert head.status_code == get.status_code in (200, 307)
    assert head.content == b""
    assert head.headers["content-type" if path != "/" else "location"] == get.headers.get(
        "content-type" if path != "/" else "location"
    )
    if path != "/metrics":
        assert head.headers["content-length"] == str(len(get.content))


@pytest.mark.slow
def test_after_head_the_connection_stays_usable(scripted_service) -> None:
    """A body after HEAD would be read as the beginning of the next answer."""
    with socket.create_connection(scripted_service.address, timeout=30) as connection:
        for request in (b"HEAD /docs", b"HEAD /livez", b"HEAD /screen/"):
            connection.sendall(request + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        with connection.makefile("rb") as stream:
            heads, _, body = stream.read().rpartition(b"\r\n\r\n")
    answers = heads.split(b"\r\n\r\n")
    assert [answer.split(b" ")[1] for answer in answers] == [b"200", b"200", b"404", b"200"]
    assert json.loads(body)["status"] == "ok"


async def test_head_of_a_probe_that_fails_is_503_and_of_a_post_405(start, serve) -> None:
    async with start(wait=False) as running:
        running.app.state.service.admission.close()
        response = await running.client.head("/readyz")
        assert (response.status_code, response.content) == (503, b"")
        response = await running.client.head("/screen")
        assert (response.status_code, response.content, response.headers["allow"]) == (405, b"", "POST")
        assert (await running.client.put("/livez")).headers["allow"] == "GET, HEAD"
        assert (await running.client.head("/nowhere")).status_code == 404


async def test_the_version_is_a_second_name_of_each_path(start, sample, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    async with start() as running:
        headers = {"Idempotency-Key": "one"}
        first = await running.client.post("/v1/screen", json=sample.json(), headers=headers)
        again = await running.client.post("/screen", json=sample.json(), headers=headers)
        assert first.status_code == 200 and again.content == first.content
        assert again.headers["idempotent-replayed"] == "true"
        assert (await running.client.post("/v1/screen", json={})).json()["instance"] == "/v1/screen"
        assert running.metric("screening_requests_total", status="200", outcome="answered") == 2
        assert (await running.client.get("/v1/readyz")).status_code == 200
        assert (await running.client.get("/v1/admin/checkpoint")).status_code == 403
        for path in ("/v2/screen", "/v1/v1/screen", "/v1screen", "/V1/screen"):
            assert (await running.client.post(path, json=sample.json())).status_code == 404
    lines = [record for record in caplog.records if record.getMessage() == "request"]
    assert {record.fields["path"] for record in lines if record.fields["status"] == 200} == {"/screen", "/readyz"}
    assert {record.levelname for record in lines if record.fields["path"] == "/readyz"} == {"DEBUG"}


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("/screen/", "/screen"),
        ("//screen", "/screen"),
        ("/Screen", "/screen"),
        ("/v1/screen/", "/v1/screen"),
        ("/livez/", "/livez"),
        ("/admin/checkpoint//", "/admin/checkpoint"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_another_spelling_is_a_404_that_names_the_right_one_and_never_a_redirect(
    start, path, right, method
) -> None:
    async with start() as running:
        url = f"http://evil.example{path}"
        response = await running.client.request(method, url, headers={"Host": "evil.example"})
    assert response.status_code == 404 and "location" not in response.headers
    assert response.json()["detail"].endswith(f"Use {right}.")
    assert "evil" not in response.text


async def test_the_root_redirects_to_the_page_by_a_relative_address(start) -> None:
    async with start() as running:
        response = await running.client.get("/", headers={"Host": "evil.example"})
    assert (response.status_code, response.headers["location"]) == (307, "docs")


async def test_the_page_needs_nothing_from_another_server(start) -> None:
    async with start() as running:
        page = await running.client.get("/docs")
        policy = page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        needed = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert {"docs/swagger-ui.css", "docs/swagger-ui-bundle.js", "docs/start.js"} <= set(needed)
        for address in needed:
            assert not re.match(r"[a-z]+://|//|/", address), address
            if not address.startswith("data:"):
                assert (await running.client.get(f"/{address}")).status_code == 200
        assert (await running.client.get("/redoc")).status_code == 404
        assert (await running.client.get("/docs/../config.py")).status_code == 404


def test_the_page_s_files_and_licence_are_installed_with_the_package(repository) -> None:
    files = {path.name for path in docs._FOLDER.iterdir()}
    assert docs._FILES.keys() | {"index.html", "LICENSE", "NOTICE"} <= files
    project = tomllib.loads((repository / "pyproject.toml").read_text())
    assert "http/docs_page/*" in project["tool"]["setuptools"]["package-data"]["service"]


async def test_without_origins_no_page_of_another_origin_is_served(start, sample) -> None:
    async with start() as running:
        response = await running.client.post("/screen", json=sample.json(), headers={"Origin": ORIGIN})
        assert not [name for name in response.headers if name.startswith("access-control")]
        preflight = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
        assert (await running.client.options("/screen", headers=preflight)).status_code == 405


@pytest.mark.parametrize("path", ["/screen", "/v1/screen"])
async def test_a_page_of_an_allowed_origin_may_send_keys_and_read_what_it_needs(start, sample, path) -> None:
    async with start(cors_origins=f"https://other.example, {ORIGIN}") as running:
        preflight = {
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,idempotency-key,x-request-id",
        }
        response = await running.client.options(path, headers=preflight)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert "POST" in response.headers["access-control-allow-methods"]
        assert "access-control-allow-credentials" not in response.headers
        for body in (sample.json(), {}):
            response = await running.client.post(path, json=body, headers={"Origin": ORIGIN})
            assert response.headers["access-control-allow-origin"] == ORIGIN
            assert "Origin" in response.headers["vary"]
            exposed = response.headers["access-control-expose-headers"].lower().split(", ")
            assert {"x-request-id", "retry-after", "idempotent-replayed"} <= set(exposed)


@pytest.mark.parametrize("origin", ["https://evil.example", "http://shop.example", f"{ORIGIN}.evil.example", "null"])
async def test_a_page_of_another_origin_is_not_answered(start, sample, origin) -> None:
    async with start(cors_origins=ORIGIN) as running:
        response = await running.client.post("/screen", json=sample.json(), headers={"Origin": origin})
        assert "access-control-allow-origin" not in response.headers
        preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        response = await running.client.options("/screen", headers=preflight)
        assert response.status_code == 400 and "access-control-allow-origin" not in response.headers


async def test_every_origin_may_be_allowed_but_never_with_credentials(start, sample) -> None:
    async with start(cors_origins="*") as running:
        headers = {"Origin": ORIGIN, "Cookie": "a=b"}
        response = await running.client.post("/screen", json=sample.json(), headers=headers)
    assert response.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in response.headers
