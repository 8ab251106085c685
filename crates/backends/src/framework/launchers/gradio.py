"""Runs a Gradio app, whatever host and port its `launch()` names. Arguments: entry file, port, root path."""

import os
import runpy
import sys

entry, port, root_path = sys.argv[1:4]
sys.argv = [entry]
sys.path.insert(0, os.getcwd())

try:
    import gradio
except ImportError:
    sys.exit("skep: `gradio` is not installed in " + sys.executable)

launch = gradio.Blocks.launch


def launch_here(self, *args, **settings):
    settings.update(server_name="127.0.0.1", server_port=int(port), root_path=root_path or None)
    if not args:
        # A public tunnel would go around whoever may open the app.
        settings.update(share=False, inbrowser=False)
    return launch(self, *args, **settings)


gradio.Blocks.launch = launch_here
runpy.run_path(entry, run_name="__main__")
