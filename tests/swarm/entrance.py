"""A proxy with TLS before the managers, as docs/swarm.md asks for: nginx in the hub's network, with a certificate of its own making."""

import base64
import hashlib
import signal
import socket
import subprocess

from database import NOBODY
from lab import LabError, run, until

PORT = 8443
# As in docs/operations.md; whichever manager has Skep answers, the others refuse.
CONF = """
daemon off;
pid {dir}/pid;
error_log {dir}/error.log;
worker_processes 1;
events {{}}
http {{
  access_log off;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream skep {{ {managers} keepalive 8; }}
  server {{
    listen {address}:{port} ssl;
    ssl_certificate {dir}/cert.pem;
    ssl_certificate_key {dir}/key.pem;
    location / {{
      proxy_pass http://skep;
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto https;
      proxy_buffering off;
      proxy_read_timeout 1h;
    }}
  }}
}}
"""


class Entrance:
    def __init__(self, lab, managers, host):
        self.dir, self.address = lab.dir / "entrance", lab.hub_address
        self.dir.mkdir()
        self.dir.chmod(0o777)
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
            f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}", "-keyout", self.dir / "key.pem", "-out", self.dir / "cert.pem")
        (self.dir / "key.pem").chmod(0o644)
        run("openssl", "pkey", "-in", self.dir / "key.pem", "-pubout", "-outform", "DER", "-out", self.dir / "public.der")
        # What Chromium is told to trust. Told to overlook what is wrong with any certificate, it begins a request anew for each
        # connection, and gives up after too many of them.
        self.pin = base64.b64encode(hashlib.sha256((self.dir / "public.der").read_bytes()).digest()).decode()
        (self.dir / "nginx.conf").write_text(CONF.format(
            dir=self.dir, address=self.address, port=PORT,
            managers=" ".join(f"server {lab.address(node)}:80 max_fails=0;" for node in managers)))
        with open(self.dir / "log", "wb") as log:
            self.process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{lab.space('hub')}", *NOBODY, "nginx", "-p", str(self.dir), "-e",
                 str(self.dir / "error.log"), "-c", str(self.dir / "nginx.conf")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        lab.at_end(self.stop)
        try:
            until("the entrance is open", self._open, 60)
        except LabError as error:
            raise LabError(f"{error}: {(self.dir / 'log').read_text()[-600:]}") from None

    @property
    def place(self):
        return f"{self.address}:{PORT}"

    def _open(self):
        try:
            socket.create_connection((self.address, PORT), timeout=2).close()
            return True
        except OSError:
            return False

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
