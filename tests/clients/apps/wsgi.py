"""A Flask or Django app that says what it takes a request for: wsgi.py flask|django LINES PORT. LINES is a
file with what docs/in-front.md tells that framework.
"""

import pathlib
import sys
import types
from wsgiref.simple_server import WSGIRequestHandler, make_server

name, lines, port = sys.argv[1], pathlib.Path(sys.argv[2]).read_text(), int(sys.argv[3])


def flask_app():
    import flask

    app = flask.Flask("behind")

    @app.route("/who")
    def who():
        request = flask.request
        return {"address": request.remote_addr, "scheme": request.scheme, "host": request.host}

    exec(lines, {"app": app})
    return app


def django_app():
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import JsonResponse
    from django.urls import path

    def who(request):
        return JsonResponse({"address": request.META["REMOTE_ADDR"], "scheme": request.scheme, "host": request.get_host()})

    urls = types.ModuleType("urls")
    urls.urlpatterns = [path("who", who)]
    sys.modules["urls"] = urls
    shown = {}
    exec(lines, shown)
    settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF="urls", SECRET_KEY="only for this test",
                       **{key: value for key, value in shown.items() if key.isupper()})
    return get_wsgi_application()


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


app = {"flask": flask_app, "django": django_app}[name]()
make_server("127.0.0.1", port, app, handler_class=Quiet).serve_forever()
