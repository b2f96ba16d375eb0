"""The certificate by which both ports speak TLS."""

from __future__ import annotations

import ssl

from tidegate.bootstrap.process import ServerSettings
from tidegate.core.error import InvalidSetting


def tls_context(server: ServerSettings) -> ssl.SSLContext | None:
    """Return what a listening socket of the server speaks TLS by; None where it does not.

    TLS 1.2 and newer, with the defaults of Python and OpenSSL for everything else.

    Raises:
        InvalidSetting: Certificate and key cannot be read, or do not belong together.
    """
    if not server.tls_certificate:
        if server.tls_key:
            raise InvalidSetting(
                "There is a TLS key without a certificate.",
                hint="Set tls_certificate too.",
                setting="tls_key",
            )
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])

    def refuse_to_ask() -> str:  # a server that waits for somebody to type would wait for ever
        raise InvalidSetting(
            "The TLS key is locked by a password.",
            hint="Give an unlocked copy that only this user can read.",
            setting="tls_key",
        )

    try:
        context.load_cert_chain(server.tls_certificate, server.tls_key or None, password=refuse_to_ask)
    except OSError as error:  # ssl.SSLError is one
        files = " and ".join(path for path in (server.tls_certificate, server.tls_key) if path)
        raise InvalidSetting(
            f"The TLS certificate cannot be used ({files}): {error.strerror or error}.",
            hint="It takes a PEM file of the certificate chain and one of its private key.",
            setting="tls_certificate",
        ) from error
    return context
