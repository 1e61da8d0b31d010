"""An annotation of five samples by an endpoint on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.chat_server import ChatServer
from tests.trainer.coloured import make_data
from trainer.data.annotate.by_teacher import Order
from trainer.endpoint.client import Asking


@pytest.fixture
def order(tmp_path: Path, endpoint: ChatServer) -> Order:
    return Order(
        method="progressive",
        data=make_data(tmp_path / "data"),
        out=tmp_path / "out",
        base_url=endpoint.url,
        asking=Asking(model="teacher", reply_tokens=200),
        concurrency=3,
        tries=4,
        timeout=30,
    )
