"""The worker of the 2016 design, written from its description: one vote, one commit.

It waits on each front's queue in turn (so an idle front holds up the others), takes a vote off the queue and then writes it:
an insert, and if that fails for any reason, an update that compares time stamps but does not store the new one. It is started
again by its supervisor when the database goes away; the vote in its hands is then gone. PEER_PAUSE is kinder: no queue is
waited for, and only when all are empty does the worker pause for so many seconds.
"""

import json
import os
import time

import psycopg2
import redis

PAUSE = float(os.environ.get("PEER_PAUSE", "0"))


def connect():
    while True:
        try:
            database = psycopg2.connect(os.environ["PEER_DATABASE"])
            database.autocommit = True
            with database.cursor() as cursor:
                cursor.execute(
                    "create table if not exists votes (id varchar(255) unique not null, vote varchar(255) not null, ts bigint)"
                )
            return database
        except psycopg2.Error:
            time.sleep(0.2)


def write(database, vote):
    with database.cursor() as cursor:
        try:
            cursor.execute(
                "insert into votes (id, vote, ts) values (%s, %s, %s)", (vote["voter_id"], vote["vote"], vote["ts"])
            )
        except psycopg2.Error:
            cursor.execute(
                "update votes set vote = %s where id = %s and ts < %s", (vote["vote"], vote["voter_id"], vote["ts"])
            )


def main():
    queues = [redis.Redis.from_url(url) for url in os.environ["PEER_REDIS"].split(",")]
    database = connect()
    while True:
        idle = True
        for queue in queues:
            taken = queue.lpop("votes") if PAUSE else queue.blpop("votes", timeout=0)[1]
            if taken:
                idle = False
                write(database, json.loads(taken))
        if idle:
            time.sleep(PAUSE)


main()
