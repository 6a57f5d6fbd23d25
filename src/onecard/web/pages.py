"""The pages: a shell with the navigation each; what they show comes from the JSON API."""

import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from markupsafe import Markup

from onecard import __version__, api, i18n
from onecard import tasks as task_list
from onecard.errors import NotFound
from onecard.web import access, forms, services, state
from onecard.web.routes.session import with_session

HERE = Path(__file__).parent
router = APIRouter()


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals |= {"_": _text, "asset": asset, "script": script, "version": __version__}
    return environment


def _text(message: str, **values: Any) -> str:
    return i18n.gettext(message).format(**values) if values else i18n.gettext(message)


@cache
def _stamp() -> str:
    """Of all static files: a page never runs an older script than its server's."""
    digest = hashlib.sha256()
    for path in sorted((HERE / "static").iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def asset(name: str) -> str:
    return f"/static/{name}?v={_stamp()}"


@cache
def script(name: str) -> Markup:
    """A page's script with all that it imports, which a browser then fetches at once and not one
    after the other."""
    links = [f'<link rel="modulepreload" href="/static/{each}">' for each in _imports(name)]
    tag = f'<script type="module" src="{asset(name)}"></script>'
    return Markup("\n".join([*links, tag]))


def _imports(name: str) -> list[str]:
    modules, waiting = dict[str, None](), [name]
    while waiting:
        text = (HERE / "static" / waiting.pop()).read_text(encoding="utf-8")
        for each in re.findall(r'from "\./([\w-]+\.js)"', text):
            if each not in modules:
                modules[each] = None
                waiting.append(each)
    return list(modules)


def render(request: Request, template: str, **facts: Any) -> str:
    language = i18n.current()
    cookie = getattr(request.state, "cookie", "")
    shared = {
        "language": language,
        "languages": i18n.LANGUAGES,
        "html_language": language.replace("_", "-").replace("zh-TW", "zh-Hant-TW"),
        "training_tasks": [t for t in task_list.all_tasks().values() if forms.trains(t)],
        "other_tasks": [t for t in task_list.all_tasks().values() if not forms.trains(t)],
        "path": request.url.path,
        "csrf": state.of(request).sessions.csrf(cookie) if cookie else "",
        "catalog": f"/catalog.js?lang={language}&v={_stamp()}",
    }
    return _environment().get_template(template).render(shared | facts)


def _page(request: Request, template: str, **facts: Any) -> Response:
    """With a session: a browser that comes for the first time gets its cookie here."""
    cookie = with_session(request)
    reply = HTMLResponse(render(request, template, **facts))
    access.set_cookie(reply, cookie)
    return reply


@router.get("/")
def home(request: Request) -> Response:
    return _page(request, "home.html")


@router.get("/login")
def login(request: Request) -> Response:
    return HTMLResponse(render(request, "login.html"))


@router.get("/plan")
def plan(request: Request) -> Response:
    return _page(request, "plan.html")


@router.get("/chat")
def chat(request: Request) -> Response:
    return _page(request, "chat.html")


@router.get("/notes")
def notes(request: Request) -> Response:
    return _page(request, "notes.html", task=services.provider("notes")[0])


@router.get("/tasks/{name}")
def task(request: Request, name: str) -> Response:
    return _page(request, "task.html", task=task_list.get(name))


@router.get("/jobs")
def jobs(request: Request) -> Response:
    return _page(request, "jobs.html")


@router.get("/jobs/{job}")
def job(request: Request, job: str) -> Response:
    return _page(request, "job.html", job=job)


@router.get("/runs")
def runs(request: Request) -> Response:
    return _page(request, "runs.html")


@router.get("/runs/compare")
def compare(request: Request) -> Response:
    return _page(request, "compare.html")


@router.get("/runs/{run}")
def run(request: Request, run: str) -> Response:
    return _page(request, "run.html", run=api.find_run(run))


@router.get("/runs/{run}/blind")
def blind(request: Request, run: str) -> Response:
    return _page(request, "blind.html", run=api.find_run(run))


@router.get("/glossary")
def glossary(request: Request) -> Response:
    return _page(request, "glossary.html")


@router.get("/health")
def health() -> Response:
    return JSONResponse({"status": "ok"})


@router.get("/favicon.ico")
def icon() -> Response:
    return RedirectResponse(asset("icon.svg"), 301)


@router.get("/catalog.js")
def catalog(lang: str = "en") -> Response:
    """The messages of a language as a script module."""
    if lang not in i18n.LANGUAGES:
        raise NotFound(
            f"there is no language {lang[:20]}",
            why=f"there are {', '.join(i18n.LANGUAGES)}",
            fix="choose one of them",
        )
    text = json.dumps(i18n.catalog(lang), ensure_ascii=False)
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(f"export default {text};\n", media_type="text/javascript", headers=headers)
