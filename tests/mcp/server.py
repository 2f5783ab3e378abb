"""An MCP server with one tool. Prints its port."""

import socket

import uvicorn
from mcp.server.mcpserver import MCPServer

server = MCPServer("orders")


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


listener = socket.socket()
listener.bind(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
config = uvicorn.Config(server.streamable_http_app(), log_level="error")
uvicorn.Server(config).run(sockets=[listener])
