"""Certificates for tests, made by openssl: an authority, a server's and a client's certificate, and a stranger.

It knows openssl's command line and nothing of servers.
"""

import subprocess
from pathlib import Path

_SUBJECT = "/CN=shareddata test"
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def certificates(folder: Path) -> None:
    """Write `ca`, `server` and `client`, signed by it, and `stranger`, which signed itself: each `.crt` and `.key`."""
    for name in ("ca", "stranger"):
        files = ("-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt")
        _openssl("req", "-x509", *_KEY, "-days", "2", "-subj", f"{_SUBJECT} {name}", *files)
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost")
    for name in ("server", "client"):
        files = ("-keyout", folder / f"{name}.key", "-out", folder / f"{name}.csr")
        _openssl("req", *_KEY, "-subj", f"{_SUBJECT} {name}", *files)
        authority = ("-CA", folder / "ca.crt", "-CAkey", folder / "ca.key", "-CAcreateserial", "-days", "2")
        request = ("-in", folder / f"{name}.csr", "-extfile", folder / "names", "-out", folder / f"{name}.crt")
        _openssl("x509", "-req", *request, *authority)


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
