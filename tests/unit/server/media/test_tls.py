"""https: the certificate is the name's, though the connection goes to an address."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mirl_core.config import Limits
from mirl_core.errors import ImageError
from mirl_server.media.decoding import ImageBudget
from tests.unit.server.harness import png
from tests.unit.server.media.origin import HOST, answer, origin, redirect, web

WHERE = "messages[0].content[0]"


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext, list[str]]:
    """A server's context for `images.example`, a client's that trusts it, and the names sent to it."""
    folder: Path = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "certificate.pem", folder / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem, secret)
    server_names: list[str] = []
    server.sni_callback = lambda _, host, __: server_names.append(host)
    return server, ssl.create_default_context(cafile=str(pem)), server_names


async def test_the_name_is_sent_and_checked(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext, list[str]],
) -> None:
    serves, trusts, server_names = contexts
    room = ImageBudget.of(Limits())
    async with origin(serves, a=answer(png()), b=redirect("http://images.example/a")) as server:
        setup = web(server, {"b.example.org": [["1.1.1.1"]]}, tls=trusts)
        url = f"https://{HOST}/a"
        assert await setup.fetcher.fetch({url: WHERE}, room) == {url: png()}
        assert server_names == [HOST]
        assert setup.network.called[0][1] == 443
        data = "send a data URL (data:image/png;base64,…)"
        untrusted = f"the image's server has no certificate that is trusted here; try again, or {data}"
        downgraded = f"the image's URL redirects from https to http; {data}"
        for refused, message in (("https://b.example.org/a", untrusted), (f"https://{HOST}/b", downgraded)):
            with pytest.raises(ImageError) as caught:
                await setup.fetcher.fetch({refused: WHERE}, room)
            assert (caught.value.message, caught.value.param) == (message, WHERE)
        assert setup.ended == ["ok", "unreachable", "refused"]
        with pytest.raises(ImageError, match="no certificate that is trusted"):
            await web(server).fetcher.fetch({url: WHERE}, room)
        # Neither a server without TLS nor TLS for a URL of http gives anything.
        with pytest.raises(ImageError, match="can't be reached, or breaks off"):
            await setup.fetcher.fetch({f"http://{HOST}/a": WHERE}, room)
    async with origin(a=answer(png())) as server:
        with pytest.raises(ImageError, match=r"within 0\.3 seconds"):
            await web(server, tls=trusts, timeout=0.3).fetcher.fetch({f"https://{HOST}/a": WHERE}, room)
