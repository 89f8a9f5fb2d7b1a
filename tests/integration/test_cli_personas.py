"""What `chat-sessions persona` sends to a gateway, and how it reads what comes back."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest

from services.api_gateway.persona_bodies import BasicAuth, HeaderAuth, JwtAuth, PersonaBody
from tests.command_line import Done, run_command

PAGES: dict[str | None, dict[str, object]] = {
    None: {"items": [{"personaId": "a"}, {"personaId": "b"}], "nextCursor": "b"},
    "b": {"items": [{"personaId": "c"}], "nextCursor": None},
}


@dataclass
class Gateway:
    """Remembers the personas that it is given, and has two pages of others."""

    url: str
    given: list[PersonaBody] = field(default_factory=list)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    class Answer(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found.given.append(PersonaBody.model_validate_json(body))
            self._answer({})

        def do_GET(self) -> None:
            (cursor,) = parse_qs(urlsplit(self.path).query).get("cursor", [None])
            self._answer(PAGES[cursor])

        def _answer(self, body: object) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        found = Gateway(f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield found
        server.shutdown()
        thread.join(10)


def persona(gateway: Gateway, *arguments: str, **environment: str) -> Done:
    told = {"PATH": os.defpath, "CHAT_SESSIONS_URL": gateway.url, "CHAT_SESSIONS_TOKEN": "t", **environment}
    return run_command("persona", *arguments, environment=told)


def put(gateway: Gateway, *options: str, **environment: str) -> Done:
    return persona(gateway, "set", "p", "--webhook-url", "http://n8n/webhook/p", *options, **environment)


def test_what_is_not_given_is_the_gateway_s_own_default(gateway: Gateway) -> None:
    done = put(gateway)
    assert done.returncode == 0, done.stderr
    assert gateway.given == [PersonaBody.model_validate({"webhookUrl": "http://n8n/webhook/p"})]


def test_the_secret_of_credentials_comes_from_the_environment_alone(gateway: Gateway) -> None:
    for options in (("--auth-header", "X-Key"), ("--auth-basic", "bob")):
        assert put(gateway, *options, PERSONA_AUTH_SECRET="hunter2").returncode == 0
    keys = [f"whsec_{letter * 43}" for letter in "AB"]
    more = {"PERSONA_AUTH_SECRET": "hunter2" * 8, "PERSONA_SIGNING_KEYS": " ".join(keys)}
    assert put(gateway, "--auth-jwt", "--sign", **more).returncode == 0
    header, basic, token = (given.auth for given in gateway.given)
    assert isinstance(token, JwtAuth)
    assert token.secret.get_secret_value() == "hunter2" * 8
    assert [key.get_secret_value() for key in gateway.given[2].signing_keys] == keys
    assert isinstance(header, HeaderAuth)
    assert (header.name, header.value.get_secret_value()) == ("X-Key", "hunter2")
    assert isinstance(basic, BasicAuth)
    assert (basic.username, basic.password.get_secret_value()) == ("bob", "hunter2")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--auth-header", "X-Key"), "PERSONA_AUTH_SECRET is not set: "),
        (("--sign",), "PERSONA_SIGNING_KEYS is not set: "),
        (("--auth-header", "X-Key", "--auth-basic", "bob"), "Give either --auth-header or --auth-basic"),
    ],
)
def test_without_usable_credentials_nothing_is_sent(gateway: Gateway, options: tuple[str, ...], told: str) -> None:
    refused = put(gateway, *options)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert refused.stderr.startswith(f"Error: {told}")
    assert gateway.given == []


def test_the_list_has_every_page(gateway: Gateway) -> None:
    listed = persona(gateway, "list", "--json")
    assert listed.returncode == 0, listed.stderr
    assert [item["personaId"] for item in json.loads(listed.stdout)["items"]] == ["a", "b", "c"]
