"""A stand-in for the review API that keeps everything in memory, for tests of the pages in a browser."""

from __future__ import annotations

import io
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

import uvicorn
from PIL import Image, ImageDraw
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from screening.task import STANDARD_DIMENSIONS
from service.review_page import pages

REASONING = "The label of the second picture is mirrored."
"""Words of the model that no response may hold before the verdict is stored."""
SIZES = ((900, 600), (640, 640), (600, 900), (800, 500), (500, 500))
ERASED = "There is no such lease. Its task may have been erased."
VISITOR = pages.Visitor("ann", signed_in=True)
KEYS = {"right": VISITOR.name, "of ben": "ben"}
"""Keys that may review, and to whom they belong."""
_DIMENSIONS = [{"name": d.value, "title": d.title, "meaning": d.meaning} for d in STANDARD_DIMENSIONS]


@cache
def picture(size: tuple[int, int], seed: int, orientation: int = 1) -> bytes:
    """A JPEG of `size` as it is shown. With an EXIF orientation of 6 it is stored lying on its side."""
    draw = random.Random(seed)
    image = Image.new("RGB", size, (210, 214, 218))
    pen = ImageDraw.Draw(image)
    for share in (0.25, 0.5, 0.75):
        pen.line([(share * size[0], 0), (share * size[0], size[1])], fill=(120, 120, 120))
        pen.line([(0, share * size[1]), (size[0], share * size[1])], fill=(120, 120, 120))
    box = [0.3 * size[0], 0.2 * size[1], 0.7 * size[0], 0.85 * size[1]]
    pen.rounded_rectangle(box, 20, fill=tuple(draw.randrange(60, 220) for _ in range(3)), outline=(30, 30, 30), width=3)
    exif = Image.Exif()
    if orientation == 6:
        image = image.transpose(Image.Transpose.ROTATE_90)
        exif[0x0112] = 6
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=85, exif=exif)
    return stored.getvalue()


@dataclass
class FakeReview:
    """The queue, and what the pages sent. `lost` names leases that another person has taken meanwhile, and `erased`
    those whose task does not exist any more. `person` is the name to which the browser's cookie belongs. If
    `no_session` is set, it answers every sign-in. While `unrouted` is set, a proxy answers in place of the API. All
    paths are below `prefix`."""

    tasks: int = 5
    job: str = "review"
    order: str = "CADB"
    pictures: list[bytes] = field(
        default_factory=lambda: [picture(size, seed, 6 if seed == 2 else 1) for seed, size in enumerate(SIZES)]
    )
    leased: int = 0
    reviews: dict[str, dict[str, Any]] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    erased: set[str] = field(default_factory=set)
    skipped: list[str] = field(default_factory=list)
    beats: list[str] = field(default_factory=list)
    refuse: str | None = None
    signed_in: bool = True
    person: str = VISITOR.name
    no_session: Response | None = None
    unrouted: bool = False
    prefix: str = ""
    url: str = ""

    def stranger(self, request: Request) -> Response | None:
        """The answer to a page that does not reach the API, or whose person is not signed in any more; else None."""
        if self.unrouted:
            return HTMLResponse("<h1>404 Not Found</h1>", 404)
        if not self.signed_in:
            return problem(401, "Sign in.")
        page = request.headers.get("X-Reviewer")
        if page != self.person:
            return problem(401, f"You are signed in as {self.person} now, and this page belongs to {page}.")
        return None

    @property
    def superseded(self) -> set[str]:
        """Ids of the reviews that a later one corrects."""
        return {one["supersedes"] for one in self.reviews.values()} - {None}

    def lease(self) -> dict[str, Any]:
        self.leased += 1
        name = f"lse_{self.leased}"
        return {
            "lease": name,
            "job": self.job,
            "expires_at": "2030-01-01T00:00:00Z",
            "seconds": 600,
            "dimensions": _DIMENSIONS,
            "original": {"url": f"/review/leases/{name}/pictures/0", "bytes": 1},
            "pictures": [{"number": n, "url": f"/review/leases/{name}/pictures/{n}", "bytes": 1} for n in range(1, 5)],
        }

    async def post_leases(self, request: Request) -> Response:
        if refused := self.stranger(request):
            return refused
        count = min((await request.json())["count"], self.tasks - self.leased)
        leases = [self.lease() for _ in range(count)]
        return JSONResponse({"leases": leases, "waiting": self.tasks - self.leased})

    async def get_picture(self, request: Request) -> Response:
        data = self.pictures[request.path_params["number"]]
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=600, immutable"})

    async def post_heartbeat(self, request: Request) -> Response:
        lease = request.path_params["lease"]
        self.beats.append(lease)
        if refused := self.stranger(request):
            return refused
        if lease in self.erased:
            return problem(404, ERASED, "lease-not-found")
        if lease in self.lost:
            return problem(409, "Another person has this task now.")
        return JSONResponse({"expires_at": "2030-01-01T00:00:00Z"})

    async def delete_lease(self, request: Request) -> Response:
        self.skipped.append(request.path_params["lease"])
        return Response(status_code=204)

    async def post_review(self, request: Request) -> Response:
        body = await request.json()
        if refused := self.stranger(request):
            return refused
        if self.refuse:
            return problem(422, self.refuse)
        if body["lease"] in self.erased:
            return problem(404, ERASED, "lease-not-found")
        known = self.reviews.get(body["id"])
        if known is not None and known != body:
            return problem(409, "This id has other content.")
        if known is None and body["supersedes"] in self.superseded:
            return problem(409, "supersedes: this is not your last review of this task. Read the review again.")
        self.reviews[body["id"]] = body
        return JSONResponse(self.answer(body), status_code=200 if known else 201)

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        usable = [one["number"] for one in body["verdicts"] if one["usable"]]
        verdicts = [
            {"number": n, "usable": n == 3, "dimensions": [] if n == 3 else ["physical_shadow"]} for n in range(1, 5)
        ]
        model = {"choice": 3, "acceptable": [3], "confidence": 0.4321, "needs_review": True}
        model |= {"pictures": verdicts, "reasoning": REASONING}
        return {
            "id": body["id"],
            "late": body["lease"] in self.lost,
            "letters": self.order,
            "model": model if self.job == "review" else None,
            "agrees": usable == [3] if self.job == "review" else None,
        }

    def shown(self, body: dict[str, Any]) -> dict[str, Any]:
        more = {"superseded": body["id"] in self.superseded, "job": self.job, "dimensions": _DIMENSIONS}
        return {**body, "at": "2026-11-29T10:00:00Z", "late": False, **more}

    async def get_reviews(self, _request: Request) -> Response:
        return JSONResponse({"reviews": [self.shown(one) for one in reversed(self.reviews.values())]})

    async def get_review(self, request: Request) -> Response:
        return JSONResponse(self.shown(self.reviews[request.path_params["review"]]))

    async def post_session(self, request: Request) -> Response:
        if self.no_session is not None:
            return self.no_session
        key = (await request.json())["key"]
        self.signed_in = key in KEYS
        self.person = KEYS.get(key, self.person)
        if key == "of a shop":
            return problem(403, "The key 'shop' lacks the scope 'review'.", "insufficient-scope")
        return Response(status_code=204) if self.signed_in else problem(401, "Unknown key.")

    async def get_overview(self, _request: Request) -> Response:
        mine = [listed(one, one["id"] in self.superseded) for one in reversed(self.reviews.values())]
        waiting = {"review": self.tasks - self.leased, "label": 0}
        return page(pages.overview_page(VISITOR, waiting, STATS["queue"], mine))

    async def get_station(self, request: Request) -> Response:
        return page(pages.station_page(VISITOR, request.query_params.get("job")))

    async def get_statistics(self, _request: Request) -> Response:
        return page(pages.statistics_page(VISITOR, STATS, None, None))

    async def get_sign_in(self, _request: Request) -> Response:
        return page(pages.sign_in_page())

    def app(self) -> Starlette:
        number = "{number:int}"
        routes = [
            Route("/review", self.get_overview),
            Route("/review/station", self.get_station),
            Route("/review/statistics", self.get_statistics),
            Route("/review/sign-in", self.get_sign_in),
            Route("/review/session", self.post_session, methods=["POST"]),
            Route("/review/leases", self.post_leases, methods=["POST"]),
            Route(f"/review/leases/{{lease}}/pictures/{number}", self.get_picture),
            Route("/review/leases/{lease}/heartbeat", self.post_heartbeat, methods=["POST"]),
            Route("/review/leases/{lease}", self.delete_lease, methods=["DELETE"]),
            Route("/review/reviews", self.post_review, methods=["POST"]),
            Route("/review/reviews", self.get_reviews),
            Route("/review/reviews/{review}", self.get_review),
            Route(f"/review/reviews/{{review}}/pictures/{number}", self.get_picture),
            Mount("/review/static", StaticFiles(directory=pages.STATIC)),
        ]
        return Starlette(routes=[Mount(self.prefix, routes=routes)])


def listed(body: dict[str, Any], superseded: bool) -> pages.ListedReview:
    usable = [one["number"] for one in body["verdicts"] if one["usable"]]
    corrects = body["supersedes"] is not None
    return pages.ListedReview(
        body["id"], datetime.now(UTC), usable, 3 in usable, corrects, superseded=superseded, late=False
    )


def page(text: str) -> Response:
    return HTMLResponse(text, headers=pages.HEADERS)


def problem(status: int, detail: str, slug: str = "") -> Response:
    body = {"type": f"urn:screening:problem:{slug}", "detail": detail, "status": status}
    return JSONResponse(body, status_code=status, media_type="application/problem+json")


@contextmanager
def served(review: FakeReview) -> Iterator[FakeReview]:
    """Serve the stand-in on a free port for the time of the block; its `url` says where."""
    server = uvicorn.Server(uvicorn.Config(review.app(), port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    review.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}{review.prefix}"
    try:
        yield review
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join()


STATS: dict[str, Any] = {
    "queue": {
        "low_confidence": {"open": 41, "leased": 3, "done": 120, "oldest_seconds": 90_000},
        "disagreement": {"open": 12, "leased": 0, "done": 33, "oldest_seconds": 7_300},
        "audit": {"open": 20, "leased": 2, "done": 70, "oldest_seconds": 260_000},
        "gold": {"open": 2, "leased": 0, "done": 14, "oldest_seconds": 600},
        "repeat": {"open": 0, "leased": 0, "done": 9, "oldest_seconds": None},
        "label": {"open": 300, "leased": 1, "done": 168, "oldest_seconds": 400_000},
    },
    "throughput": [
        {
            "day": f"2026-11-{day:02}",
            "reviewer": who,
            "reviews": 10 + (day * 7) % 23,
            "median_active_seconds": 18.0 + day,
        }
        for day in range(10, 28)
        for who in ("ann", "bert", "cleo")
    ],
    "agreement": [
        {
            "dimension": "usable",
            "pairs": 412,
            "raw": 0.89,
            "alpha": 0.71,
            "alpha_interval": [0.63, 0.78],
            "ac1": 0.81,
            "ac1_interval": [0.75, 0.86],
        },
        {
            "dimension": "appearance_deformation",
            "pairs": 412,
            "raw": 0.85,
            "alpha": 0.58,
            "alpha_interval": [0.48, 0.67],
            "ac1": 0.76,
            "ac1_interval": [0.69, 0.82],
        },
        {
            "dimension": "physical_shadow",
            "pairs": 412,
            "raw": 0.94,
            "alpha": 0.66,
            "alpha_interval": [0.52, 0.78],
            "ac1": 0.92,
            "ac1_interval": [0.88, 0.95],
        },
        {
            "dimension": "placement_layout",
            "pairs": 412,
            "raw": 0.97,
            "alpha": 0.31,
            "alpha_interval": [-0.1, 0.6],
            "ac1": 0.96,
            "ac1_interval": [0.94, 0.98],
        },
        {
            "dimension": "extension_rationality",
            "pairs": 412,
            "raw": 0.91,
            "alpha": None,
            "alpha_interval": None,
            "ac1": 0.87,
            "ac1_interval": [0.82, 0.91],
        },
    ],
    "model": {"reviewed": 206, "accuracy": 0.78, "interval": [0.71, 0.84], "unweighted": 0.61},
    "gold": [{"reviewer": "ann", "answered": 14, "right": 13}, {"reviewer": "bert", "answered": 9, "right": 6}],
}
"""A body of `GET /review/stats`."""
