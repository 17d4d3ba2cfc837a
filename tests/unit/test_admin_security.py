"""Who may ask the admin API for what, and the attacks that it withstands."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from omnidaemon import App
from omnidaemon.admin import Admin
from omnidaemon.admin.api import ENDPOINTS
from omnidaemon.admin.auth import Keys
from omnidaemon.admin.endpoints import Endpoint
from omnidaemon.errors import InvalidSettings
from omnidaemon.settings import Settings
from omnidaemon.testing import serve
from tests.unit.admin_client import KEYS, client, shop

pytestmark = pytest.mark.anyio

ROUTES = pytest.mark.parametrize("route", ENDPOINTS, ids=lambda r: f"{r.method} {r.path}")
CHANGES = pytest.mark.parametrize(
    "route", [r for r in ENDPOINTS if r.method != "GET"], ids=lambda r: f"{r.method} {r.path}"
)
FINITE = pytest.mark.parametrize(
    "route", [r for r in ENDPOINTS if r.path != "/events"], ids=lambda r: f"{r.method} {r.path}"
)
BODIES: dict[str, Any] = {
    "publish_task": {"topic": "orders", "payload": 1},
    "publish_tasks": {"topic": "orders", "payload": 1},
    "set_config": {"value": 1},
}


@pytest.fixture
def anyio_backend() -> str:
    """Nothing here depends on the loop, and Redis is tried as well."""
    return "asyncio"


def locked() -> Admin:
    return Admin(shop(), keys=KEYS)


async def call(admin: Admin, route: Endpoint, key: str | None, **more: Any) -> httpx.Response:
    path = re.sub(r"\{\w+\}", "orders", route.path)
    body = BODIES.get(route.function.__name__)
    async with client(admin, key) as http:
        return await http.request(route.method, path, json=body, **more)


# Keys and scopes


@ROUTES
@pytest.mark.parametrize("key", [None, "unknown", "", "reader-key:read", "READER-KEY"])
async def test_every_route_asks_for_a_key(route: Endpoint, key: str | None) -> None:
    answer = await call(locked(), route, key)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer" in answer.json()["detail"]


@FINITE
@pytest.mark.parametrize(
    ("key", "scopes"),
    [
        ("reader-key", {"read"}),
        ("publisher-key", {"publish"}),
        ("both-key", {"read", "publish"}),
        ("admin-key", {"read", "publish", "admin"}),
    ],
)
async def test_every_route_asks_for_its_scope(route: Endpoint, key: str, scopes: set[str]) -> None:
    answer = await call(locked(), route, key)
    if route.scope is None or route.scope in scopes:
        assert answer.status_code in (200, 404)
    else:
        assert answer.status_code == 403
        assert route.scope in answer.json()["detail"]


def test_what_changes_something_is_for_admins_and_publishers_alone() -> None:
    for route in ENDPOINTS:
        if route.method != "GET":
            assert route.scope in ("publish", "admin"), route.path
        elif route.path not in ("/livez", "/readyz", "/openapi.json"):
            assert route.scope == "read", route.path


async def test_a_path_that_is_not_there_asks_for_a_key_as_well() -> None:
    async with client(locked()) as http:
        assert (await http.get("/nothing")).status_code == 401
        assert (await http.options("/tasks")).status_code == 401
    async with client(locked(), "reader-key") as http:
        assert (await http.get("/nothing")).status_code == 404


@pytest.mark.parametrize("header", ["Basic admin-key", "admin-key", "Bearer", "Bearer  x y"])
async def test_only_a_bearer_is_let_in(header: str) -> None:
    async with client(locked()) as http:
        answer = await http.get("/livez", headers={"Authorization": header})
        assert answer.status_code == 401


async def test_a_key_may_have_any_letters() -> None:
    async with client(Admin(shop(), keys=["schlüssel-鍵:read"])) as http:
        header = "Bearer schlüssel-鍵".encode()
        answer = await http.get("/livez", headers={b"Authorization": header})
        assert answer.status_code == 200


def test_keys_are_kept_as_hashes_and_compared_in_constant_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import hashlib
    import hmac

    compared: list[tuple[bytes, bytes]] = []
    original = hmac.compare_digest

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return original(a, b)

    monkeypatch.setattr("omnidaemon.admin.auth.hmac.compare_digest", compare)
    digest = hashlib.sha256(b"other").hexdigest()
    keys = Keys(["first:read", f"sha256={digest}:admin", "third:read:t"])
    assert b"first" not in repr(vars(keys)).encode()
    found = keys.caller("first")
    assert found is not None
    assert len(compared) == 3  # all of them, wherever the key stands
    assert {len(side) for pair in compared for side in pair} == {32}
    assert keys.caller("other") is not None
    assert keys.caller(f"sha256={digest}") is None
    third = keys.caller("third")
    assert third is not None
    assert third.tenant == "t"


@pytest.mark.parametrize(
    "entry",
    ["k3y", ":read", "k3y:", "k3y:write", "k3y:read+", "k3y:read+write", "k3y:read:", "k3y::t"],
)
def test_an_entry_that_is_not_usable_is_an_error_that_does_not_show_it(entry: str) -> None:
    with pytest.raises(InvalidSettings, match=r"entry 2 of OMNIDAEMON_API_KEYS") as caught:
        Keys(["fine:read", entry])
    assert "k3y" not in str(caught.value)


def test_a_key_listed_twice_has_both_scopes_and_one_tenant() -> None:
    found = Keys(["k:read", "k:publish"]).caller("k")
    assert found is not None
    assert found.scopes == {"read", "publish"}
    with pytest.raises(InvalidSettings, match="another entry and tenant"):
        Keys(["k:read:a", "k:read:b"])


# Attacks


@ROUTES
@pytest.mark.parametrize("where", ["?api_key={}", "?token={}", "?x={}", "?a=1&Authorization={}"])
async def test_a_key_in_the_url_is_refused_everywhere(route: Endpoint, where: str) -> None:
    path = re.sub(r"\{\w+\}", "orders", route.path) + where.format("admin-key")
    for key in (None, "admin-key"):
        async with client(locked(), key) as http:
            answer = await http.request(route.method, path)
            assert answer.status_code == 401
            assert "URL" in answer.json()["detail"]
            assert "admin-key" not in answer.text


async def test_a_key_in_the_path_is_refused() -> None:
    async with client(locked(), "reader-key") as http:
        assert (await http.get("/tasks/admin-key")).status_code == 401


@ROUTES
@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8765", "localhost.evil.example", "127.0.0.1.evil", "", "[::2]"],
)
async def test_without_keys_a_foreign_host_name_is_refused(route: Endpoint, host: str) -> None:
    answer = await call(Admin(shop(), auth="none"), route, None, headers={"Host": host})
    assert answer.status_code == 403
    assert "OMNIDAEMON_API_HOSTS" in answer.json()["detail"]


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8765", "127.0.0.1:1", "[::1]:8765", "[::1]", "ops.internal"]
)
async def test_local_and_configured_host_names_are_answered(host: str) -> None:
    settings = Settings(event_bus="memory", api_hosts=("Ops.Internal",))
    app = App("x", settings=settings)
    async with client(Admin(app, auth="none")) as http:
        answer = await http.get("/livez", headers={"Host": host})
        assert answer.status_code == 200


async def test_with_keys_any_host_name_is_answered() -> None:
    async with client(locked(), "reader-key") as http:
        answer = await http.get("/livez", headers={"Host": "omnidaemon.example"})
        assert answer.status_code == 200


@CHANGES
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:9999"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "file://"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"},
    ],
    ids=str,
)
async def test_a_page_of_another_origin_changes_nothing(
    route: Endpoint, headers: dict[str, str]
) -> None:
    for admin, key in ((Admin(shop(), auth="none"), None), (locked(), "admin-key")):
        answer = await call(admin, route, key, headers=headers)
        assert answer.status_code == 403
        assert "origin" in answer.json()["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://localhost"},
        {"Origin": "http://localhost:80", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
)
async def test_the_pages_of_the_api_itself_may_change_things(headers: dict[str, str]) -> None:
    async with client(Admin(shop(), auth="none")) as http:
        answer = await http.post("/config/a", json={"value": 1}, headers=headers)
        assert answer.status_code == 200


@CHANGES
@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "text/json"],
)
async def test_a_body_that_a_form_could_send_is_refused(route: Endpoint, kind: str) -> None:
    path = re.sub(r"\{\w+\}", "orders", route.path)
    async with client(Admin(shop(), auth="none")) as http:
        headers = {"Content-Type": kind} if kind else {}
        answer = await http.request(
            route.method, path, content=b'{"topic":"orders","payload":1}', headers=headers
        )
        assert answer.status_code == 415
        assert "application/json" in answer.json()["detail"]


async def test_no_answer_allows_other_origins_to_read_it_or_is_kept() -> None:
    async with client(Admin(shop(), auth="none")) as http:
        answer = await http.get("/agents", headers={"Origin": "http://evil.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_no_answer_holds_a_password_or_a_key() -> None:
    url = "redis://user:s3cret-pw@127.0.0.1:1/0"  # nobody listens there
    settings = Settings(event_bus="redis_stream", redis_url=url, api_keys=KEYS)
    app = App("x", settings=settings)
    admin = Admin(app)
    for route in ENDPOINTS:
        if route.path != "/events":
            answer = await call(admin, route, "admin-key")
            assert answer.status_code in (200, 503), route.path
            for secret in ("s3cret-pw", *(entry.partition(":")[0] for entry in KEYS)):
                assert secret not in answer.text
    await app.close()


# Tenants


@FINITE
async def test_a_key_of_a_tenant_gets_nothing_that_cannot_be_confined_to_it(
    route: Endpoint,
) -> None:
    answer = await call(locked(), route, "a-admin-key")
    if not route.tenants:
        assert answer.status_code == 403
        assert "tenant" in answer.json()["detail"]
    else:
        assert route.path in (
            "/tasks",
            "/publish-tasks",
            "/tasks/{task_id}",
            "/tasks/{task_id}/tree",
            "/metrics",
            "/metrics/prometheus",
            "/livez",
            "/readyz",
            "/openapi.json",
        )


async def test_a_key_of_a_tenant_sees_its_own_tasks_and_numbers_alone() -> None:
    app = shop()
    async with serve(app) as served:
        admin = Admin(app, keys=KEYS)
        own = await app.send("orders", "own", tenant_id="a")
        foreign = await app.send("orders", "foreign", tenant_id="b")
        nobodys = await app.send("mails", "nobody's")
        await served.settled()
        async with client(admin, "a-key") as http:
            assert [run["task_id"] for run in (await http.get("/tasks")).json()] == [own.id]
            assert (await http.get("/tasks?tenant_id=a")).status_code == 200
            assert (await http.get("/tasks?tenant_id=b")).status_code == 403
            assert (await http.get(f"/tasks/{own.id}")).json()["tenant_id"] == "a"
            for task in (foreign, nobodys):
                assert (await http.get(f"/tasks/{task.id}")).status_code == 403
            assert (await http.get("/tasks/unknown")).status_code == 404
            numbers = (await http.get("/metrics")).json()
            assert numbers.keys() == {"orders"}
            assert numbers["orders"]["charge"]["tasks_processed"] == 1
            text = (await http.get("/metrics/prometheus")).text
            assert text == (await http.get("/metrics", headers={"Accept": "text/plain"})).text
            assert 'processed_total{agent="charge",topic="orders"} 1.0\n' in text
            assert not [word for word in ("mails", "lag", "workers", "webhook") if word in text]
            assert (await http.get("/metrics?tenant_id=b")).status_code == 403
        async with client(admin, "a-admin-key") as http:
            assert (await http.delete(f"/tasks/{foreign.id}")).status_code == 403
            assert (await http.delete(f"/tasks/{own.id}")).status_code == 200
        async with client(admin, "admin-key") as http:
            assert len((await http.get("/tasks")).json()) == 2
            assert len((await http.get("/tasks?tenant_id=b")).json()) == 1


async def test_a_key_of_a_tenant_sees_what_waits_if_it_is_its_own() -> None:
    app = shop()
    admin = Admin(app, keys=KEYS)
    own = await app.send("orders", 1, tenant_id="a")
    late = await app.send("orders", 1, tenant_id="a", delay=3600)
    foreign = await app.send("orders", 1, tenant_id="b")
    nobodys = await app.send("orders", 1)
    async with client(admin, "a-key") as http:
        for task in (own, late):
            assert (await http.get(f"/tasks/{task.id}")).json()["status"] == "pending"
        for task in (foreign, nobodys):
            assert (await http.get(f"/tasks/{task.id}")).status_code == 403


async def test_a_key_of_a_tenant_publishes_for_that_tenant_alone() -> None:
    app = shop()
    admin = Admin(app, keys=KEYS)
    foreign = await app.send("orders", 1, id="theirs", tenant_id="b")
    async with client(admin, "a-key") as http:
        body = {"topic": "orders", "payload": 1}
        assert (await http.post("/tasks", json=body)).status_code == 200
        assert (await http.post("/tasks", json={**body, "tenant_id": "a"})).status_code == 200
        assert (await http.post("/tasks", json={**body, "tenant_id": "b"})).status_code == 403
        taken = {**body, "id": foreign.id}
        assert (await http.post("/tasks", json=taken)).status_code == 403
        assert (await http.post("/tasks", json={**body, "id": "mine"})).status_code == 200
    async with client(admin, "admin-key") as http:
        events = (await http.get("/bus/inspect/orders")).json()
        assert [event["event"].get("tenant_id") for event in events] == ["a", "a", "a", "b"]
