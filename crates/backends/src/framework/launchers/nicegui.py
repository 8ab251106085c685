"""Runs a NiceGUI app, whatever host and port its `ui.run()` names. Arguments: entry file, socket."""

import os
import runpy
import sys

entry, socket = sys.argv[1:3]
sys.argv = [entry]
sys.path.insert(0, os.getcwd())

try:
    from nicegui import ui
except ImportError:
    sys.exit("skep: `nicegui` is not installed in " + sys.executable)

run = ui.run


def run_here(*args, **settings):
    # The reloader would start the app in a process of its own, on an address of its own.
    settings.update(reload=False, show=False, native=False, uds=socket, forwarded_allow_ips="*")
    return run(*args, **settings)


ui.run = run_here
runpy.run_path(entry, run_name="__main__")
