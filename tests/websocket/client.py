"""Opens a WebSocket over TLS with the library `websockets`, and reads a message of a megabyte slowly.

Arguments: address, authority of TLS (PEM), session cookie, bytes to ask for. Prints "amid" in the
middle of the message, and goes on after a line of input. Prints JSON: bytes of the message, close
codes received and sent, and whether the server's came first.
"""

import json
import socket
import ssl
import sys
import time

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

ADDRESS, AUTHORITY, SESSION, SIZE = sys.argv[1:]
RECORD = 16384


class SlowSocket(ssl.SSLSocket):
    """Reads a record of TLS at a time, with pauses."""

    received = 0
    is_amid = False

    def recv(self, size, flags=0):
        data = super().recv(min(size, RECORD), flags)
        self.received += len(data)
        if self.received > int(SIZE) // 4:
            if not SlowSocket.is_amid:
                SlowSocket.is_amid = True
                print("amid", flush=True)
                sys.stdin.readline()
            time.sleep(0.01)
        return data


def main():
    host, port = ADDRESS.split(":")
    tcp = socket.socket()
    # The kernel holds little of the message.
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    tcp.connect((host, int(port)))
    context = ssl.create_default_context(cafile=AUTHORITY)
    context.sslsocket_class = SlowSocket
    report = {"bytes": 0}
    with connect(
        "wss://site.test/ws",
        sock=tcp,
        ssl=context,
        server_hostname="site.test",
        compression=None,
        proxy=None,
        max_size=None,
        ping_interval=None,
        additional_headers={"Cookie": f"session={SESSION}"},
    ) as websocket:
        websocket.send(f"long {SIZE}")
        try:
            report["bytes"] = len(websocket.recv())
            report["more"] = len(websocket.recv())
        except ConnectionClosed as closed:
            report["received"] = closed.rcvd and closed.rcvd.code
            report["sent"] = closed.sent and closed.sent.code
            report["server_first"] = closed.rcvd_then_sent
    print(json.dumps(report))


main()
