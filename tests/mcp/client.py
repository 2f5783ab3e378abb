"""Calls a tool of an MCP server, and logs in as the server's challenge says.

Arguments: URL of the MCP server, authority of TLS (PEM), and then ORIGIN=ADDRESS for each origin.
Prints JSON: `steps` (method, URL without query, status), `asked` (the authorization request),
and `result` or `error`.
"""

import asyncio
import json
import ssl
import sys
from urllib.parse import parse_qs, urlsplit

import httpx2
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientMetadata

URL, AUTHORITY, *ORIGINS = sys.argv[1:]
ADDRESSES = dict(origin.split("=") for origin in ORIGINS)
CALLBACK = "http://localhost:1/callback"
report = {"steps": []}


class Network(httpx2.AsyncHTTPTransport):
    """Sends each request to the address of its origin. Only these are reached."""

    async def handle_async_request(self, request):
        own = request.url
        address = httpx2.URL(ADDRESSES[f"{own.scheme}://{own.host}"])
        request.extensions["sni_hostname"] = own.host
        request.url = own.copy_with(scheme=address.scheme, host=address.host, port=address.port)
        response = await super().handle_async_request(request)
        request.url = own
        report["steps"].append([request.method, str(own).split("?")[0], response.status_code])
        return response


def network():
    return Network(verify=ssl.create_default_context(cafile=AUTHORITY))


class Storage:
    tokens = client = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client):
        self.client = client


class Browser:
    """Opens the login page, which logs the user in."""

    async def open(self, url):
        report["asked"] = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        async with httpx2.AsyncClient(transport=network()) as client:
            answer = await client.get(url)
        self.back = parse_qs(urlsplit(answer.headers["location"]).query)

    async def answer(self):
        if "error" in self.back:
            raise RuntimeError(f"{self.back['error'][0]}: {self.back['error_description'][0]}")
        return AuthorizationCodeResult(code=self.back["code"][0], state=self.back["state"][0])


async def main():
    browser = Browser()
    metadata = OAuthClientMetadata(
        client_name="Test",
        redirect_uris=[CALLBACK],
        grant_types=["authorization_code", "refresh_token"],
        response_types=["code"],
        token_endpoint_auth_method="none",
    )
    auth = OAuthClientProvider(URL, metadata, Storage(), browser.open, browser.answer)
    async with httpx2.AsyncClient(transport=network(), auth=auth, timeout=60) as http:
        async with Client(streamable_http_client(URL, http_client=http)) as client:
            result = await client.call_tool("add", {"a": 2, "b": 3})
            report["result"] = result.content[0].text


def causes(error):
    """Messages of the exceptions within groups."""
    for inner in getattr(error, "exceptions", [error]):
        yield from causes(inner) if inner is not error else [f"{type(error).__name__}: {error}"]


try:
    asyncio.run(main())
except BaseException as error:
    report["error"] = "; ".join(causes(error))
print(json.dumps(report))
