"""Serves the WSGI callable of an app's entry file with gunicorn. Arguments: entry file, bind address."""

import importlib
import importlib.util
import os
import sys

entry, bind = sys.argv[1:3]
sys.argv = [entry]
sys.path.insert(0, os.getcwd())

try:
    from gunicorn.app.base import BaseApplication
except ImportError:
    sys.exit("skep: `gunicorn`, which serves WSGI apps, is not installed in " + sys.executable)


def without_own_servers():
    """An entry file that starts a development server as it is imported would never get any further."""
    with open(entry, encoding="utf-8", errors="replace") as file:
        text = file.read()
    for name, kind in (("flask", "Flask"), ("dash", "Dash")):
        if ".run(" in text and name in text and importlib.util.find_spec(name):
            setattr(getattr(importlib.import_module(name), kind), "run", lambda *args, **settings: None)


def load():
    without_own_servers()
    name = entry.removesuffix(".py").replace("/", ".")
    if all(part.isidentifier() for part in name.split(".")):
        module = importlib.import_module(name)
    else:
        spec = importlib.util.spec_from_file_location("skep_app", entry)
        module = sys.modules["skep_app"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    for name in ("app", "server", "application", "wsgi", "wsgi_app"):
        found = getattr(module, name, None)
        # A Dash app carries the Flask app that serves it.
        found = getattr(found, "server", found)
        if callable(found):
            return found
    for found in vars(module).values():
        if type(found).__module__.partition(".")[0] == "dash" and hasattr(found, "server"):
            return found.server
        if callable(getattr(found, "wsgi_app", None)) and not isinstance(found, type):
            return found
    for name in ("create_app", "make_app"):
        if callable(getattr(module, name, None)):
            return getattr(module, name)()
    sys.exit("skep: %s defines no WSGI callable named `app`, `server` or `application`" % entry)


class Server(BaseApplication):
    def load_config(self):
        settings = {
            "bind": [bind],
            "workers": int(os.environ.get("WEB_CONCURRENCY", "1")),
            "worker_class": "gthread",
            "threads": 16,
            "timeout": 0,
            "graceful_timeout": 10,
            # Only Skep can reach the socket.
            "forwarded_allow_ips": "*",
            "accesslog": None,
            "umask": 0o077,
            "control_socket_disable": True,
        }
        for key, value in settings.items():
            if key in self.cfg.settings:
                self.cfg.set(key, value)

    def load(self):
        return load()


Server().run()
