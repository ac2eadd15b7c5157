"""Flower with the ledger in view: its own application, its handlers guarded, ours beside them."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from flower.app import Flower, rewrite_handler
from flower.views import BaseHandler
from flower.views.auth import LoginHandler
from flower.views.tasks import TasksDataTable
from tornado.web import RequestHandler, StaticFileHandler, url

from lern.flower import api, bulk, dead, groups, run, runs, task
from lern.flower.access import Access, Guarded
from lern.flower.templates import STATIC, Templates
from lern.health import PROCESS
from lern.services import Services

# Pages of the ledger must not wait for Flower's own threads, which ask workers and may wait long.
THREADS: Final = 8

HANDLERS: Final = (
    url(r"/runs", runs.RunsPage, name="runs"),
    url(r"/runs/(retry|hurry)", bulk.BulkRuns, name="bulk"),
    url(r"/run/([^/]+)", run.RunPage, name="run"),
    url(r"/run/([^/]+)/retry", run.Retry, name="retry"),
    url(r"/run/([^/]+)/hurry", run.Hurry, name="hurry"),
    url(r"/run/([^/]+)/undo", run.Undo, name="undo"),
    url(r"/run/([^/]+)/rows/(\d+)", run.ChunkPage, name="chunk"),
    url(r"/failed", groups.FailedPage, name="failed"),
    url(r"/waiting", groups.WaitingPage, name="waiting"),
    url(r"/dead", dead.DeadPage, name="dead"),
    url(r"/dead/replay", bulk.BulkDead, name="bulk_dead"),
    url(r"/dead/(\d+)", dead.LetterPage, name="letter"),
    url(r"/job/([0-9a-f]+)", bulk.JobPage, name="job"),
    url(r"/task/(.+)", task.TaskPage, name="task"),
    url(r"/api/lern/runs", api.RunsApi),
    url(r"/api/lern/runs/([^/]+)", api.RunApi),
    url(r"/api/lern/runs/([^/]+)/retry", api.RetryApi),
    url(r"/api/lern/runs/([^/]+)/undo", api.UndoApi),
    url(r"/api/lern/dead", api.DeadApi),
    url(r"/api/lern/dead/(\d+)", api.LetterApi),
    url(r"/api/lern/dead/(\d+)/replay", api.ReplayApi),
    url(r"/api/lern(?:/.*)?", api.Unknown),
    url(r"/lern/static/(.*)", StaticFileHandler, {"path": str(STATIC)}, name="lern_static"),
)


class OwnProcess(RequestHandler):
    """Says to anybody that it answers, and which process it is: `lern up` asks this of what it has started."""

    def get(self) -> None:
        """Answer."""
        self.set_header(PROCESS, str(os.getpid()))


class Application(Flower):
    """Flower, and what it needs besides: the parts of the system, who may do what, and jobs."""

    def __init__(self, parts: Services, access: Access, *, options: Any, **settings: Any) -> None:
        """`options` are Flower's; `settings` Tornado's. Raises `UnknownFlower`."""
        self.parts = parts
        self.access = access
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="ledger")
        self.job_pool = ThreadPoolExecutor(2, thread_name_prefix="job")
        self.jobs = bulk.Jobs(self.job_pool.submit)
        settings["template_loader"] = Templates()
        settings["xsrf_cookie_kwargs"] = {"samesite": "Strict"}
        super().__init__(options=options, capp=parts.queue.app, **settings)
        self._guard()
        prefix = options.url_prefix
        handlers = [rewrite_handler(handler, prefix) for handler in HANDLERS] if prefix else list(HANDLERS)
        # Asked at this port itself, so under no prefix.
        self.add_handlers(r".*", [*handlers, url(r"/lern/process", OwnProcess)])

    def _guard(self) -> None:
        """Put our checks around every handler of Flower's; its page for logging in is for those who are not."""
        for rule in self.wildcard_router.rules:
            handler = rule.target
            if isinstance(handler, type) and issubclass(handler, BaseHandler) and not issubclass(handler, LoginHandler):
                looks = issubclass(handler, TasksDataTable)
                rule.target = type(handler.__name__, (Guarded, handler), {"_only_looks": looks})

    def stop(self) -> None:
        """End: jobs after what they are at, then what Flower ends."""
        self.jobs.end()
        super().stop()
        self.job_pool.shutdown(wait=True)
        self.pool.shutdown(wait=False, cancel_futures=True)
