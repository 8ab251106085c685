import random

import plotly.graph_objects as go
from dash import Dash, Input, Output, callback, dcc, html

random.seed(7)
FLOWERS = [
    (kind, random.gauss(length, 0.35), random.gauss(width, 0.16))
    for kind, length, width in [("daisy", 1.6, 0.4), ("poppy", 4.2, 1.3), ("tulip", 5.6, 2.0)]
    for _ in range(50)
]
COLOURS = {"daisy": "#e0a100", "poppy": "#c8385a", "tulip": "#6a4c93"}

app = Dash(__name__, title="Flower finder")
server = app.server

app.layout = html.Main(
    style={"maxWidth": "56rem", "margin": "2rem auto", "padding": "0 1rem", "fontFamily": "system-ui, sans-serif"},
    children=[
        html.H1("Flower finder"),
        html.P("Petals of 150 flowers. Where would you draw the line between small and large?"),
        dcc.RadioItems(["all", *COLOURS], "all", id="kind", inline=True, labelStyle={"marginRight": "1rem"}),
        dcc.Graph(id="petals", config={"displayModeBar": False}, style={"height": "26rem"}),
        html.Label("The line, in cm", htmlFor="line"),
        dcc.Slider(0, 7, 0.5, value=3, id="line", marks={cm: str(cm) for cm in range(8)}),
        html.P(id="verdict", style={"fontSize": "1.2rem"}),
    ],
)


@callback(Output("petals", "figure"), Output("verdict", "children"), Input("kind", "value"), Input("line", "value"))
def draw(kind, line):
    figure = go.Figure(layout={"template": "plotly_white", "margin": {"t": 10, "r": 10}})
    for name, colour in COLOURS.items():
        if kind in ("all", name):
            points = [(length, width) for flower, length, width in FLOWERS if flower == name]
            x, y = zip(*points)
            figure.add_scatter(x=x, y=y, mode="markers", name=name, marker={"color": colour, "size": 9})
    figure.add_vline(x=line, line_dash="dash", line_color="#444")
    figure.update_xaxes(title="Petal length, cm", range=[0, 7])
    figure.update_yaxes(title="Petal width, cm", range=[0, 3])
    shown = [length for flower, length, _ in FLOWERS if kind in ("all", flower)]
    return figure, f"{sum(length > line for length in shown)} of {len(shown)} flowers lie beyond the line."


if __name__ == "__main__":
    app.run()
