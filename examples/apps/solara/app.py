import solara
from matplotlib.figure import Figure

hares = solara.reactive(40)
foxes = solara.reactive(9)


def years(hares: float, foxes: float) -> tuple[list[float], list[float]]:
    prey, predators = [float(hares)], [float(foxes)]
    step = 0.01
    for _ in range(4000):
        h, f = prey[-1], predators[-1]
        prey.append(h + step * (0.8 * h - 0.05 * h * f))
        predators.append(f + step * (0.02 * h * f - 0.6 * f))
    return prey, predators


@solara.component
def Page():
    prey, predators = years(hares.value, foxes.value)
    with solara.Column(style={"max-width": "60rem", "margin": "1rem auto", "padding": "0 1rem"}):
        solara.Title("Predator and prey")
        solara.HTML("h1", "Predator and prey")
        solara.Text("Many hares feed many foxes, who leave few hares, who starve the foxes.")
        solara.SliderInt("Hares at the start", value=hares, min=5, max=100)
        solara.SliderInt("Foxes at the start", value=foxes, min=1, max=40)
        with solara.Row():
            solara.Button("Twice the foxes", color="primary", on_click=lambda: foxes.set(min(40, foxes.value * 2)))
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        axes = figure.subplots()
        time = [0.01 * index for index in range(len(prey))]
        axes.plot(time, prey, color="#8d99ae", label="hares")
        axes.plot(time, predators, color="#d1495b", label="foxes")
        axes.set(xlabel="Years")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        solara.FigureMatplotlib(figure, dependencies=[hares.value, foxes.value])
        solara.Text(f"{foxes.value} foxes at the start: never more than {max(prey):.0f} hares.", style="font-size: 1.2rem")
