"""Runs a Shiny for Python app, Core or Express. Arguments: entry file, socket."""

import sys

entry, socket = sys.argv[1:3]
sys.argv = [entry]

try:
    import shiny
except ImportError:
    sys.exit("skep: `shiny` is not installed in " + sys.executable)

shiny.run_app(entry, uds=socket, forwarded_allow_ips="*", log_level="warning")
