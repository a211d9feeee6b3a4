"""Authorities and certificates of servers and clients, made with openssl."""

import os
import shutil
import subprocess

from conftest import server_user


class Certificates:
    """In a folder of their own; PostgreSQL's user and ours can read each of them."""

    def __init__(self, directory, environment=None):
        self.dir, self.environment = directory, environment
        directory.mkdir(mode=0o755)

    def openssl(self, *arguments):
        subprocess.run(
            ["openssl", *map(str, arguments)], cwd=self.dir, check=True, capture_output=True, env=self.environment
        )

    def authority(self, name):
        self.openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 2, "-subj", f"/CN={name}"),
            *("-keyout", f"{name}.key", "-out", f"{name}.crt"),
        )

    def issue(self, authority, name, usage, addresses=("127.0.0.1",)):
        names = ",".join(f"IP:{address}" for address in addresses)
        (self.dir / "ext").write_text(f"extendedKeyUsage={usage}\nsubjectAltName={names}\n")
        self.openssl(
            "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", "csr"
        )
        self.openssl(
            *("x509", "-req", "-in", "csr", "-CA", f"{authority}.crt", "-CAkey", f"{authority}.key", "-CAcreateserial"),
            *("-days", 2, "-extfile", "ext", "-out", f"{name}.crt"),
        )

    def shown(self, name):
        """For connect()."""
        return {"sslcert": str(self.dir / f"{name}.crt"), "sslkey": str(self.dir / f"{name}.key")}

    def share(self, name):
        """A key that belongs to root and can be read by the servers' group is good for both."""
        user = server_user()
        if user:
            shutil.chown(self.dir / f"{name}.key", group=user["group"])
            os.chmod(self.dir / f"{name}.key", 0o640)

    def as_secret(self, folder, **files):
        """A folder as the volume of a Secret has it; tls_crt="server.crt" is tls.crt."""
        user = server_user()
        folder.mkdir(exist_ok=True)
        for to, source in files.items():
            path = folder / f"{to.replace('_', '.')}.new"
            path.write_text((self.dir / source).read_text())
            if user:
                shutil.chown(path, user["user"], user["group"])
            path.rename(path.with_suffix(""))
