import numpy as np
from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Div, Slider
from bokeh.plotting import figure

first = Slider(title="First wave, Hz", start=1, end=20, step=0.5, value=8, sizing_mode="stretch_width")
second = Slider(title="Second wave, Hz", start=1, end=20, step=0.5, value=9, sizing_mode="stretch_width")
verdict = Div(styles={"font-size": "1.2rem"})
source = ColumnDataSource({"time": [], "sum": []})

plot = figure(
    height=360,
    sizing_mode="stretch_width",
    y_range=(-2.2, 2.2),
    x_axis_label="Seconds",
    y_axis_label="Sum of both",
    toolbar_location=None,
)
plot.line("time", "sum", source=source, line_width=2, color="#00798c")


def redraw(attr, old, new):
    time = np.linspace(0, 4, 1600)
    both = np.sin(2 * np.pi * first.value * time) + np.sin(2 * np.pi * second.value * time)
    source.data = {"time": time, "sum": both}
    beat = abs(first.value - second.value)
    verdict.text = f"They beat {beat:g} times a second." if beat else "In unison: no beat."


for slider in (first, second):
    slider.on_change("value", redraw)
redraw(None, None, None)

heading = Div(text="<h1>Wave table</h1>")
page = column(heading, first, second, plot, verdict, sizing_mode="stretch_width", max_width=960)
page.styles = {"margin": "1rem auto", "padding": "0 1rem", "box-sizing": "border-box"}
curdoc().add_root(page)
curdoc().title = "Wave table"
