from datetime import datetime
from threading import Lock

from flask import Flask, redirect, render_template, request, url_for

app = Flask(__name__)
entries: list[dict] = []
lock = Lock()


@app.get("/")
def read():
    with lock:
        newest_first = entries[::-1]
    return render_template("book.html", entries=newest_first)


@app.post("/")
def write():
    name, text = request.form.get("name", "").strip()[:40], request.form.get("text", "").strip()[:400]
    if name and text:
        with lock:
            entries.append({"name": name, "text": text, "at": datetime.now()})
            del entries[:-50]
    return redirect(url_for("read"))
