#!/usr/bin/env python3
"""Classroom: a teacher asks, students answer.

An ordinary small web app: pages rendered on the server, plain forms, redirect after post, MongoDB
behind it. It was written with no thought of push, and nothing in this file knows of any: to see
something new, reload. Live updates come from Sidestream in front of it, and from static/live.js,
which the browser runs.

    MONGODB_URI=mongodb://127.0.0.1:27017/?replicaSet=rs0 python3 app.py --port 3000

There is no login: everyone can be the teacher. A real app would ask who is there.
"""

import argparse
import http.cookies
import os
import pathlib
import signal
import sys
import urllib.parse
from datetime import datetime, timezone
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pymongo
import pymongo.errors
from bson import ObjectId

STATIC = pathlib.Path(__file__).resolve().parent / "static"
STATIC_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
MAX_FORM_BYTES = 64 * 1024
MAX_NAME, MAX_TEXT, MAX_CHOICE, MAX_CHOICES = 40, 300, 80, 8


class Refused(Exception):
    """A request that gets an error page."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


# ---------------------------------------------------------------------------------------------
# The database.


class Classroom:
    def __init__(self, uri):
        self.client = pymongo.MongoClient(uri, serverSelectionTimeoutMS=5000)
        self.questions = self.client.classroom.questions
        self.answers = self.client.classroom.answers
        # One answer for each student and question, also when the button is pressed twice.
        self.answers.create_index([("question", 1), ("student", 1)], unique=True)

    def question(self, id_text):
        if not ObjectId.is_valid(id_text):
            raise Refused(404, "There is no such question.")
        question = self.questions.find_one({"_id": ObjectId(id_text)})
        if question is None:
            raise Refused(404, "There is no such question.")
        return question

    def newest_question(self):
        return self.questions.find_one(sort=[("_id", -1)])

    def earlier_questions(self, but):
        return list(self.questions.find({"_id": {"$ne": but}}).sort("_id", -1).limit(10))

    def ask(self, text, choices):
        # One question at a time.
        self.questions.update_many({"open": True}, {"$set": {"open": False}})
        question = {"text": text, "choices": choices, "open": True, "asked": now()}
        return self.questions.insert_one(question).inserted_id

    def close(self, question):
        self.questions.update_one({"_id": question["_id"]}, {"$set": {"open": False}})

    def answers_to(self, question):
        return list(self.answers.find({"question": question["_id"]}).sort([("time", 1), ("_id", 1)]))

    def answer_of(self, question, student):
        return self.answers.find_one({"question": question["_id"], "student": student})

    def give_answer(self, question, student, answer):
        who = {"question": question["_id"], "student": student}
        change = {"$set": {"answer": answer, "time": now()}}
        try:
            self.answers.update_one(who, change, upsert=True)
        except pymongo.errors.DuplicateKeyError:
            # Two posts at once; the other one was first, so now there is an answer to change.
            self.answers.update_one(who, change)

    def remove_answer(self, id_text):
        if not ObjectId.is_valid(id_text):
            return None
        return self.answers.find_one_and_delete({"_id": ObjectId(id_text)})


def now():
    return datetime.now(timezone.utc)


# ---------------------------------------------------------------------------------------------
# The pages. Every value goes through escape(); ids and data attributes are for live.js and tests.


def page(title, body, role):
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)} · Classroom</title>
<link rel="stylesheet" href="/static/style.css">
<link rel="icon" href="/static/icon.svg">
<script src="/static/live.js" defer></script>
</head>
<body data-page="{role}">
<header>
  <a class="brand" href="/">Classroom</a>
  <nav><a href="/student">Student</a> <a href="/teacher">Teacher</a></nav>
  <span id="connection" data-state="off" hidden></span>
</header>
<main>
{body}
</main>
</body>
</html>
"""


def join_page(name, problem=""):
    warning = f'<p class="problem" role="alert">{escape(problem)}</p>' if problem else ""
    return page("Join", f"""
<section class="card narrow">
  <h1>Join the class</h1>
  {warning}
  <form method="post" action="/join" id="join">
    <label for="name">Your name</label>
    <input id="name" name="name" value="{escape(name)}" maxlength="{MAX_NAME}" required autofocus
           autocomplete="given-name">
    <button>Join</button>
  </form>
  <p class="quiet">You are the teacher? <a href="/teacher">Ask something.</a></p>
</section>""", "join")


def student_page(student, question, mine):
    return page("Student", f"""
<p class="quiet narrow">Signed in as <strong id="student">{escape(student)}</strong> ·
  <a href="/">somebody else</a></p>
<section id="current" class="card narrow" data-live>
{student_question(question, mine)}
</section>""", "student")


def student_question(question, mine):
    if question is None:
        return '<p id="waiting" class="empty">No question yet. It will come.</p>'
    text = f'<h1 id="question" data-question="{question["_id"]}">{escape(question["text"])}</h1>'
    given = mine["answer"] if mine else ""
    said = f'<p class="given" id="given">Your answer: <strong>{escape(given)}</strong></p>' if mine else ""
    if not question["open"]:
        return text + said + '<p id="closed" class="empty">This question is closed.</p>'

    if question["choices"]:
        field = "".join(
            f'<label class="choice"><input type="radio" name="answer" required value="{escape(c)}"'
            f'{" checked" if c == given else ""}> <span>{escape(c)}</span></label>'
            for c in question["choices"]
        )
    else:
        field = (f'<label for="answer">In your own words</label><input id="answer" name="answer" '
                 f'value="{escape(given)}" maxlength="{MAX_CHOICE}" required autocomplete="off">')
    return f"""{text}
{said}
<form method="post" action="/answer" id="answer-form">
  <input type="hidden" name="question" value="{question["_id"]}">
  {field}
  <button>{"Change my answer" if mine else "Answer"}</button>
</form>"""


def teacher_page(question, answers, earlier):
    return page("Teacher", f"""
<noscript><p class="quiet">Without JavaScript, reload to see what is new.</p></noscript>
<div class="columns">
<section id="current" class="card" data-live{current_attributes(question)}>
{teacher_question(question, answers)}
</section>
<div>
<section class="card">
  <h2>Ask</h2>
  <form method="post" action="/teacher/ask" id="ask">
    <label for="text">Question</label>
    <input id="text" name="text" maxlength="{MAX_TEXT}" required autocomplete="off">
    <label for="choices">Choices, one a line <span class="quiet">(none: free text)</span></label>
    <textarea id="choices" name="choices" rows="4"></textarea>
    <button>Ask the class</button>
  </form>
</section>
<section id="earlier" class="card" data-live>
{earlier_questions(earlier)}
</section>
</div>
</div>
<template id="answer-row">{answer_row(None)}</template>""", "teacher")


def current_attributes(question):
    return f' data-question="{question["_id"]}"' if question else ""


def teacher_question(question, answers):
    if question is None:
        return '<p id="waiting" class="empty">Nothing asked yet.</p>'
    given = [answer["answer"] for answer in answers]
    tally = "".join(tally_row(c, given.count(c), len(answers)) for c in question["choices"])
    rows = "".join(answer_row(answer) for answer in answers)
    state = "open" if question["open"] else "closed"
    close = f"""<form method="post" action="/teacher/close" id="close">
    <input type="hidden" name="question" value="{question["_id"]}">
    <button class="secondary">Close the question</button>
  </form>""" if question["open"] else ""
    return f"""<p class="badge" id="state" data-state="{state}">{state}</p>
<h1 id="question">{escape(question["text"])}</h1>
<ul id="tally">{tally}</ul>
<h2><output id="total">{len(answers)}</output> answered</h2>
<ol id="answers">{rows}</ol>
{close}"""


def tally_row(choice, count, total):
    return (f'<li data-choice="{escape(choice)}"><span class="label">{escape(choice)}</span>'
            f'<progress max="{max(total, 1)}" value="{count}"></progress>'
            f'<output class="count">{count}</output></li>')


def answer_row(answer):
    # Without an answer: the empty row that live.js fills.
    key = str(answer["_id"]) if answer else ""
    student = escape(answer["student"]) if answer else ""
    text = escape(answer["answer"]) if answer else ""
    time = answer["time"].strftime("%H:%M:%S") if answer else ""
    return (f'<li data-id="{key}" data-answer="{text}"><strong class="student">{student}</strong>'
            f'<span class="text">{text}</span><time>{time}</time>'
            f'<form method="post" action="/teacher/remove"><input type="hidden" name="answer" '
            f'value="{key}"><button class="plain" title="Remove this answer">✕</button></form></li>')


def earlier_questions(earlier):
    items = "".join(
        f'<li><a href="/teacher?question={q["_id"]}">{escape(q["text"])}</a></li>' for q in earlier
    )
    return "<h2>Other questions</h2>" + (f"<ul>{items}</ul>" if items else '<p class="empty">None.</p>')


def error_page(message):
    return page("Sorry", f"""
<section class="card narrow"><h1>Sorry</h1><p id="error">{escape(message)}</p>
<p><a href="/student">Back</a></p></section>""", "error")


# ---------------------------------------------------------------------------------------------
# Requests.


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "Classroom"
    # An idle connection must not hold its thread for ever.
    timeout = 75
    classroom = None

    def do_GET(self):
        self.answer_with({
            "/": self.show_join,
            "/student": self.show_student,
            "/teacher": self.show_teacher,
        })

    do_HEAD = do_GET

    def do_POST(self):
        self.answer_with({
            "/join": self.join,
            "/answer": self.give_answer,
            "/teacher/ask": self.ask,
            "/teacher/close": self.close_question,
            "/teacher/remove": self.remove_answer,
        })

    def answer_with(self, routes):
        url = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(url.query))
        try:
            self.form = self.read_form() if self.command == "POST" else {}
            if url.path.startswith("/static/") and self.command != "POST":
                self.show_static(url.path)
            elif url.path in routes:
                routes[url.path]()
            else:
                raise Refused(404, "There is no such page.")
        except Refused as refused:
            self.send_html(error_page(str(refused)), refused.status)
        except pymongo.errors.PyMongoError as error:
            self.log_error("database: %s", error)
            self.send_html(error_page("The database is away. Please try again."), 503)

    def read_form(self):
        try:
            length = int(self.headers.get("Content-Length", "0"))
        except ValueError:
            length = -1
        if length < 0 or length > MAX_FORM_BYTES or self.headers.get("Transfer-Encoding"):
            # What is left of the body would be read as the next request.
            self.close_connection = True
            raise Refused(413, "That is too much.")
        text = self.rfile.read(length).decode("utf-8", "replace")
        return dict(urllib.parse.parse_qsl(text, keep_blank_values=True))

    def field(self, name, limit):
        # One line, no control characters: a name must not break up a log or a page.
        text = " ".join(self.form.get(name, "").split())
        return "".join(c for c in text if c.isprintable())[:limit].strip()

    def student(self):
        try:
            jar = http.cookies.SimpleCookie(self.headers.get("Cookie", ""))
        except http.cookies.CookieError:
            return ""
        return urllib.parse.unquote(jar["student"].value)[:MAX_NAME] if "student" in jar else ""

    # Pages.

    def show_join(self):
        self.send_html(join_page(self.student()))

    def show_student(self):
        student = self.student()
        if not student:
            return self.redirect("/")
        question = self.classroom.newest_question()
        mine = self.classroom.answer_of(question, student) if question else None
        self.send_html(student_page(student, question, mine))

    def show_teacher(self):
        named = self.query.get("question")
        question = self.classroom.question(named) if named else self.classroom.newest_question()
        answers = self.classroom.answers_to(question) if question else []
        earlier = self.classroom.earlier_questions(question["_id"] if question else None)
        self.send_html(teacher_page(question, answers, earlier))

    def show_static(self, path):
        file = STATIC / path[len("/static/"):]
        # Only what lies in the directory: no sub-directories, no way out of it.
        if file.parent != STATIC or file.suffix not in STATIC_TYPES or not file.is_file():
            raise Refused(404, "There is no such page.")
        self.send_body(file.read_bytes(), STATIC_TYPES[file.suffix], cache="no-cache")

    # Forms.

    def join(self):
        name = self.field("name", MAX_NAME)
        if not name:
            return self.send_html(join_page("", "Please tell your name."), 400)
        cookie = f"student={urllib.parse.quote(name, safe='')}; Path=/; HttpOnly; SameSite=Lax"
        self.redirect("/student", cookie)

    def give_answer(self):
        student = self.student()
        if not student:
            return self.redirect("/")
        question = self.classroom.question(self.form.get("question", ""))
        answer = self.field("answer", MAX_CHOICE)
        if not question["open"]:
            raise Refused(409, "This question is closed.")
        if not answer or (question["choices"] and answer not in question["choices"]):
            raise Refused(400, "That is not one of the answers.")
        self.classroom.give_answer(question, student, answer)
        self.redirect("/student")

    def ask(self):
        text = self.field("text", MAX_TEXT)
        if not text:
            raise Refused(400, "A question needs a text.")
        lines = [" ".join(line.split())[:MAX_CHOICE] for line in self.form.get("choices", "").splitlines()]
        # dict: without doubles, in the order given.
        choices = list(dict.fromkeys(line for line in lines if line))[:MAX_CHOICES]
        self.classroom.ask(text, choices)
        self.redirect("/teacher")

    def close_question(self):
        question = self.classroom.question(self.form.get("question", ""))
        self.classroom.close(question)
        self.back_to(question["_id"])

    def remove_answer(self):
        removed = self.classroom.remove_answer(self.form.get("answer", ""))
        self.back_to(removed and removed["question"])

    def back_to(self, question_id):
        # The plain address follows the newest question, one with an id stays with an older one.
        newest = self.classroom.newest_question()
        is_newest = not question_id or (newest and newest["_id"] == question_id)
        self.redirect("/teacher" if is_newest else f"/teacher?question={question_id}")

    # Bytes.

    def redirect(self, where, cookie=None):
        # 303: the browser fetches the page, and a reload does not post again.
        self.send_response(303)
        self.send_header("Location", where)
        self.send_header("Content-Length", "0")
        if cookie:
            self.send_header("Set-Cookie", cookie)
        self.end_headers()

    def send_html(self, html, status=200):
        self.send_body(html.encode(), "text/html; charset=utf-8", status)

    def send_body(self, body, content_type, status=200, cache="no-store"):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", cache)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    # A class of students that submits at once should not be turned away.
    request_queue_size = 128

    def handle_error(self, request, client_address):
        # Someone who left in the middle of a request is not an error.
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def main():
    parser = argparse.ArgumentParser(description="A quiz for a classroom.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--mongodb", default=os.environ.get("MONGODB_URI", "mongodb://127.0.0.1:27017"))
    args = parser.parse_args()

    Handler.classroom = Classroom(args.mongodb)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with Server((args.host, args.port), Handler) as server:
        print(f"classroom on http://{args.host}:{args.port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
