import marimo

app = marimo.App(width="medium", app_title="Prime spiral")


@app.cell
def _():
    import marimo as mo

    return (mo,)


@app.cell
def _(mo):
    mo.md("""
    # Prime spiral
    Write the whole numbers in a spiral and mark the primes: Ulam saw them fall on diagonals.
    """)
    return


@app.cell
def _(mo):
    size = mo.ui.slider(5, 61, step=2, value=31, label="Width of the spiral", show_value=True)
    start = mo.ui.slider(1, 50, value=1, label="Number in the middle", show_value=True)
    mo.hstack([size, start], justify="start", gap=3, wrap=True)
    return size, start


@app.cell
def _(mo, size, start):
    def is_prime(number):
        return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))

    def spiral(width):
        x = y = 0
        dx, dy = 0, -1
        for index in range(width * width):
            yield index, x, y
            if x == y or (x < 0 and x == -y) or (x > 0 and x == 1 - y):
                dx, dy = -dy, dx
            x, y = x + dx, y + dy

    half = size.value // 2
    dots = [
        f'<circle cx="{x + half + 0.5}" cy="{y + half + 0.5}" r="0.42"/>'
        for index, x, y in spiral(size.value)
        if is_prime(index + start.value)
    ]
    drawing = mo.Html(
        f'<svg viewBox="0 0 {size.value} {size.value}" style="width:100%;max-width:32rem" fill="#5a189a">'
        f"{''.join(dots)}</svg>"
    )
    last = start.value + size.value**2 - 1
    mo.vstack([drawing, mo.md(f"**{len(dots)} primes** between {start.value} and {last}.")])
    return


if __name__ == "__main__":
    app.run()
