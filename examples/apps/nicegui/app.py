from nicegui import ui


@ui.page("/")
def door():
    counts = {"in": 0, "out": 0}

    def count(way: str):
        counts[way] += 1
        at_home.text = f"{counts['in'] - counts['out']} more at home than at the start"
        chart.options["series"][0]["data"] = [counts["in"], counts["out"]]
        chart.update()

    ui.colors(primary="#b7791f")
    with ui.column().classes("mx-auto p-4 w-full max-w-3xl items-center"):
        ui.label("Bee counter").classes("text-4xl font-light")
        ui.label("Press for every bee you see at the hive's door.").classes("text-gray-500")
        with ui.row().classes("my-4"):
            ui.button("A bee flies in", icon="login", on_click=lambda: count("in"))
            ui.button("A bee flies out", icon="logout", on_click=lambda: count("out")).props("outline")
        at_home = ui.label("Nothing counted yet").classes("text-xl")
        chart = ui.echart(
            {
                "xAxis": {"type": "category", "data": ["in", "out"]},
                "yAxis": {"type": "value", "minInterval": 1},
                "series": [{"type": "bar", "data": [0, 0], "itemStyle": {"color": "#d69e2e"}}],
            }
        )


ui.run(title="Bee counter", favicon="🐝", show=False, reload=False)
