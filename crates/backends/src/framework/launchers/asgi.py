"""Serves the ASGI callable of an app's entry file with uvicorn. Arguments: entry file, socket, root path."""

import importlib
import importlib.util
import inspect
import os
import sys

entry, socket, root_path = sys.argv[1:4]
sys.argv = [entry]
sys.path.insert(0, os.getcwd())

try:
    import uvicorn
except ImportError:
    sys.exit("skep: `uvicorn`, which serves ASGI apps, is not installed in " + sys.executable)


def load():
    name = entry.removesuffix(".py").replace("/", ".")
    if all(part.isidentifier() for part in name.split(".")):
        module = importlib.import_module(name)
    else:
        spec = importlib.util.spec_from_file_location("skep_app", entry)
        module = sys.modules["skep_app"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    for name in ("app", "application", "server", "asgi", "api"):
        found = getattr(module, name, None)
        if callable(found) and not inspect.isclass(found):
            return found
    for found in vars(module).values():
        kinds = [c.__module__.partition(".")[0] + "." + c.__name__ for c in type(found).__mro__]
        if "fastapi.FastAPI" in kinds or "starlette.Starlette" in kinds:
            return found
    for name in ("create_app", "make_app"):
        if callable(getattr(module, name, None)):
            return getattr(module, name)()
    sys.exit("skep: %s defines no ASGI callable named `app` or `application`" % entry)


# An entry file that starts a server of its own as it is imported would never get any further.
serve, uvicorn.run = uvicorn.run, lambda *args, **settings: None

serve(
    load(),
    uds=socket,
    root_path=root_path,
    # Only Skep can reach the socket.
    forwarded_allow_ips="*",
    access_log=False,
    timeout_graceful_shutdown=10,
)
