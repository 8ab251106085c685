import numpy as np
import panel as pn
from bokeh.plotting import figure

pn.extension()

length = pn.widgets.FloatSlider(name="Length, m", start=0.2, end=4, step=0.1, value=1)
friction = pn.widgets.FloatSlider(name="Friction", start=0, end=1, step=0.05, value=0.2)
start = pn.widgets.IntSlider(name="Start, degrees", start=5, end=170, step=5, value=60)


def swing(length, friction, start):
    step, angle, speed = 0.01, np.radians(start), 0.0
    angles = []
    for _ in range(2000):
        speed += step * (-9.81 / length * np.sin(angle) - friction * speed)
        angle += step * speed
        angles.append(np.degrees(angle))
    return np.arange(2000) * step, np.array(angles)


def plot(length, friction, start):
    time, angles = swing(length, friction, start)
    drawing = figure(
        height=360, sizing_mode="stretch_width", x_axis_label="Seconds", y_axis_label="Degrees", toolbar_location=None
    )
    drawing.line(time, angles, line_width=2, color="#2f4b7c")
    return drawing


def verdict(length, friction, start):
    _, angles = swing(length, friction, start)
    crossings = int(np.sum(angles[:-1] * angles[1:] < 0))
    return pn.pane.HTML(f"<p style='font-size:1.2rem'>It passes the middle {crossings} times in 20 seconds.</p>")


pn.Column(
    "# Pendulum",
    pn.FlexBox(length, friction, start),
    pn.bind(plot, length, friction, start),
    pn.bind(verdict, length, friction, start),
    sizing_mode="stretch_width",
    max_width=960,
    styles={"margin": "1rem auto", "padding": "0 1rem", "box-sizing": "border-box"},
).servable(title="Pendulum")
