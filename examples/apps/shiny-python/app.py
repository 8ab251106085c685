import random

import matplotlib.pyplot as plt
from shiny import App, reactive, render, ui

app_ui = ui.page_sidebar(
    ui.sidebar(
        ui.input_slider("steps", "Steps each", min=10, max=500, value=120, step=10),
        ui.input_slider("walkers", "Walkers", min=1, max=100, value=40),
        ui.input_action_button("again", "Walk again", class_="btn-primary"),
    ),
    ui.card(ui.output_plot("paths"), full_screen=True),
    ui.output_ui("verdict"),
    ui.output_ui("hello"),
    title="Random walks",
    fillable=True,
)


def server(input, output, session):
    @reactive.calc
    def walks():
        input.again()
        paths = []
        for _ in range(input.walkers()):
            place, path = 0, [0]
            for _ in range(input.steps()):
                place += random.choice((-1, 1))
                path.append(place)
            paths.append(path)
        return paths

    @render.plot(alt="The walkers' distance from the inn, step by step")
    def paths():
        figure, axes = plt.subplots()
        for path in walks():
            axes.plot(path, color="#1d6f5c", alpha=0.25)
        axes.set(xlabel="Steps", ylabel="Distance from the inn")
        axes.spines[["top", "right"]].set_visible(False)
        return figure

    @render.ui
    def hello():
        # Who is logged in; nobody where no login is needed.
        return ui.p(f"Hello, {session.user}.") if session.user else None

    @render.ui
    def verdict():
        ends = [abs(path[-1]) for path in walks()]
        mean = sum(ends) / len(ends)
        return ui.p(
            f"{len(ends)} walkers, {input.steps()} steps: {mean:.1f} from the inn on average.", class_="lead"
        )


app = App(app_ui, server)
