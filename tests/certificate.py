"""Certificates as files, as a server and a caller read them."""

from __future__ import annotations

from pathlib import Path

import trustme


def write_certificate(authority: trustme.CA, folder: Path) -> tuple[Path, Path]:
    """Issue a certificate of this machine's own address; return the files of its chain and its key."""
    issued = authority.issue_cert("127.0.0.1")
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return chain, key
