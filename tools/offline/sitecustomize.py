"""Cut the network of every Python process that has this folder on its PYTHONPATH: only this machine answers.

Kernels and JupyterLab need the loopback addresses, so those stay open. An attempt to go further raises, and leaves a
line in the file that OFFLINE_LOG names, so that an attempt whose error is caught somewhere is still seen."""
import os
import socket
import sys

_ADDRESS = {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1,  # event: which argument is the address
            "socket.getaddrinfo": 0, "socket.gethostbyname": 0}
_LOCAL = {None, "", "localhost", "::1", "0.0.0.0", "::", socket.gethostname()}


def _is_local(host):
    host = host.decode() if isinstance(host, bytes) else host
    return host in _LOCAL or host.startswith("127.")


def _only_this_machine(event, args):
    if event not in _ADDRESS: return
    address = args[_ADDRESS[event]]
    if event.startswith(("socket.connect", "socket.send")):
        if not isinstance(address, tuple): return  # a Unix socket, or one that is connected already
        address = address[0]
    if _is_local(address): return
    if log := os.environ.get("OFFLINE_LOG"):
        with open(log, "a") as f: f.write(f"{event} {address}\n")
    raise OSError(f"The network is cut for this run: {event} to {address!r} was refused.")


sys.addaudithook(_only_this_machine)
