"""The keys and certificates of one cluster, made with openssl when it starts and thrown away with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .run import run

__all__ = ["Pki", "make_pki"]

_CONFIG = """\
[req]
distinguished_name = name
prompt = no
[name]
CN = unused
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {alternatives}
[client]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


@dataclass(frozen=True)
class Pki:
    """Where the keys and certificates are: each NAME is NAME.crt and NAME.key in `folder`."""

    folder: Path

    def certificate(self, name: str) -> Path:
        """Return the certificate (PEM) of `ca`, `apiserver`, `kubelet` or `kubelet-client`."""
        return self.folder / f"{name}.crt"

    def key(self, name: str) -> Path:
        """Return the private key (PEM); `service-accounts` has a key only."""
        return self.folder / f"{name}.key"

    def public_key(self, name: str) -> Path:
        """Return the public key (PEM) of `service-accounts`."""
        return self.folder / f"{name}.pub"


def make_pki(folder: Path, addresses: list[str]) -> Pki:
    """Make an authority, what it signs, and the key that signs service account tokens.

    Args:
        folder: created, readable by this user only.
        addresses: IP addresses at which the API server and the kubelet are reached.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    names.append("kubernetes.default.svc.cluster.local")
    alternatives = [f"DNS:{name}" for name in names] + [f"IP:{address}" for address in addresses]
    config = folder / "openssl.cnf"
    config.write_text(_CONFIG.format(alternatives=", ".join(alternatives)))
    pki = Pki(folder)
    _new_key(pki.key("service-accounts"))
    run("openssl", "pkey", "-in", pki.key("service-accounts"), "-pubout", "-out", pki.public_key("service-accounts"))
    _new_key(pki.key("ca"))
    request = ("openssl", "req", "-config", config, "-new", "-sha256")
    run(
        *request, "-x509", "-days", "365", "-extensions", "ca",
        "-subj", "/CN=modelyard test cluster", "-key", pki.key("ca"), "-out", pki.certificate("ca"),
    )  # fmt: skip
    signed = (
        ("apiserver", "/CN=kube-apiserver", "server"),
        ("kubelet", "/CN=kubelet", "server"),
        # The kubelet lets whoever is in this group read logs and run commands in pods.
        ("kubelet-client", "/O=system:masters/CN=kube-apiserver", "client"),
    )
    for serial, (name, subject, extensions) in enumerate(signed, start=2):
        _new_key(pki.key(name))
        csr = run(*request, "-subj", subject, "-key", pki.key(name))
        run(
            "openssl", "x509", "-req", "-sha256", "-days", "365", "-set_serial", str(serial),
            "-CA", pki.certificate("ca"), "-CAkey", pki.key("ca"),
            "-extfile", config, "-extensions", extensions, "-out", pki.certificate(name),
            input=csr,
        )  # fmt: skip
    return pki


def _new_key(path: Path) -> None:
    run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path)
