"""A client in the cluster, run in a pod by the tests. Prints what it found as one line of JSON.

    probe                                    what stands in the way of an installation
    call SERVER PORT HOST PATH BODY          one call, where the name server says the host is
    load SERVER PORT HOST PATH BODY CLIENTS  calls until standard input ends
"""

import http.client
import json
import os
import random
import socket
import ssl
import struct
import sys
import threading
import urllib.request

DNS_SECS = 2
CALL_SECS = 30
FAILURES_SHOWN = 10


def probe():
    problems = []
    try:
        socket.getaddrinfo("kubernetes.default", 443)
    except OSError as error:
        problems.append(f"pods cannot resolve kubernetes.default: {error}")
    account = "/var/run/secrets/kubernetes.io/serviceaccount"
    server = os.environ["KUBERNETES_SERVICE_HOST"]
    server = f"[{server}]" if ":" in server else server
    url = f"https://{server}:{os.environ['KUBERNETES_SERVICE_PORT']}/version"
    try:
        trust = ssl.create_default_context(cafile=f"{account}/ca.crt")
        urllib.request.urlopen(url, context=trust, timeout=5).read()
    except urllib.error.HTTPError:
        pass  # It refuses this account, so it was reached.
    except OSError as error:
        problems.append(f"pods cannot reach the API server at {url}: {error}")
    return problems


def resolve(server, host):
    """The one IPv4 address of a host, as one name server has it (RFC 1035 section 4)."""
    number = random.randrange(1 << 16)
    labels = b"".join(bytes([len(label)]) + label.encode() for label in host.split("."))
    query = struct.pack(">6H", number, 0, 1, 0, 0, 0) + labels + struct.pack(">B2H", 0, 1, 1)
    address = socket.getaddrinfo(server, 53, type=socket.SOCK_DGRAM)[0]
    with socket.socket(address[0], socket.SOCK_DGRAM) as asked:
        asked.settimeout(DNS_SECS)
        asked.connect(address[4])
        asked.send(query)
        answer = asked.recv(4096)
    answered, flags, _, *counts = struct.unpack(">6H", answer[:12])
    if answered != number or flags & 0xF or counts != [1, 0, 0]:
        raise OSError(f"{server} answers {answer.hex()} for {host}")
    # The one record there is ends with its address.
    return socket.inet_ntoa(answer[-4:])


def call(server, port, host, path, body):
    address = resolve(server, host)
    gateway = http.client.HTTPConnection(address, int(port), timeout=CALL_SECS)
    try:
        gateway.request("POST", path, body, {"Host": host})
        response = gateway.getresponse()
        said = response.read().decode(errors="replace")
        region = response.headers.get("Tradewind-Region")
    finally:
        gateway.close()
    return {"address": address, "status": response.status, "region": region, "body": said}


def load(server, port, host, path, body, clients):
    stop = threading.Event()
    answered, failures = [], []

    def client():
        while not stop.is_set():
            try:
                said = call(server, port, host, path, body)
            except (OSError, http.client.HTTPException) as error:
                said = {"error": repr(error)}
            (answered if said.get("status") == 200 else failures).append(said)

    threads = [threading.Thread(target=client) for _ in range(int(clients))]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    return {"answered": len(answered), "failed": len(failures), "failures": failures[:FAILURES_SHOWN]}


print(json.dumps({"probe": probe, "call": call, "load": load}[sys.argv[1]](*sys.argv[2:])))
