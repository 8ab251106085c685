"""The front of the 2016 design that ballot is measured against, written from its description.

A page with two buttons. A vote is pushed to a Redis list as JSON with the voter's id, the vote and this machine's time in
milliseconds; the page is rendered again as the answer. A voter is a random number in a plain cookie. Generous to the
original: a production server (gunicorn, threads, kept connections) instead of Flask's own, and Redis persists every push
before it answers (appendfsync always).
"""

import json
import os
import random
import time

import redis
from flask import Flask, make_response, render_template, request

PAGE = """<!doctype html><title>{{ a }} or {{ b }}?</title>
<form method="post"><button name="vote" value="a" {{ "aria-pressed=true" if vote == "a" }}>{{ a }}</button>
<button name="vote" value="b" {{ "aria-pressed=true" if vote == "b" }}>{{ b }}</button></form>
<p>{% if vote %}Your vote: {{ vote }}{% endif %}</p><p>Served by {{ host }}</p>"""

app = Flask(__name__)
# Compiled once, as a template in a file would be.
page = app.jinja_env.from_string(PAGE)
queue = redis.Redis.from_url(os.environ["PEER_REDIS"])


@app.route("/", methods=["GET", "POST"])
def vote():
    voter = request.cookies.get("voter_id") or f"{random.getrandbits(64):016x}"
    choice = None
    if request.method == "POST":
        choice = request.form["vote"]
        queue.rpush("votes", json.dumps({"voter_id": voter, "vote": choice, "ts": int(time.time() * 1000)}))
    answer = make_response(render_template(page, a="Cats", b="Dogs", vote=choice, host="peer"))
    answer.set_cookie("voter_id", voter)
    return answer
