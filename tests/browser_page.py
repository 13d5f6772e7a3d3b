"""Pages that speak the protocol of a browser which is measured, over real HTTP."""

import base64
import json
import secrets
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from eval.devices.probe import Model, open_model
from web_client import Response, request

Answer = dict[str, Any]
USER_AGENT = "Mozilla/5.0 (Linux; Android 15) Chrome/156.0"


class Page:
    """A page in a thread: it answers as measure.js does, and times nothing.

    Attributes:
        url: the address that it opened.
        num_runs: how many requests for times it answered.
    """

    def __init__(
        self,
        url: str,
        respond: Callable[["Page", Answer], Answer | None] | None = None,
        folder: Path | None = None,
        context: ssl.SSLContext | None = None,
        is_alive: bool = True,
    ) -> None:
        """Open the address.

        Args:
            respond: answers instead of the page; None where it does not.
            folder: where the page keeps the files that it loads.
            context: whom it trusts, for https.
            is_alive: whether it asks for requests by itself.
        """
        self.url, self.num_runs = url, 0
        self.name, self._path = secrets.token_hex(8), urlsplit(url).path
        self._respond, self._folder, self._context = respond, folder, context
        self._is_closed = threading.Event()
        self._models: dict[int, Model] = {}
        self._random = np.random.default_rng(0)
        if is_alive:
            threading.Thread(target=self._live, daemon=True).start()

    def close(self) -> None:
        """Close the tab: the page says so."""
        self._is_closed.set()
        self.post(f"bye?page={self.name}", None)

    def vanish(self) -> None:
        """Be silent from now on, as without a network."""
        self._is_closed.set()

    def post(self, path: str, body: Any) -> Response:
        data = b"" if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        return request(self.url, self._path + path, "POST", data, headers, self._context)

    def get(self, path: str) -> Response:
        return request(self.url, self._path + path, context=self._context)

    def greet(self) -> Response:
        facts = {"user_agent": USER_AGENT, "num_cores": 8, "is_isolated": False}
        return self.post("hello", {"page": self.name, "webgpu": None, **facts})

    def _live(self) -> None:
        self.greet()
        last = 0
        while not self._is_closed.is_set():
            response = self.get(f"requests?page={self.name}&after={last}")
            if response.status != 200 or response.value["is_over"]:
                return
            for message in response.value["requests"]:
                last = message["number"]
                answer = (self._respond and self._respond(self, message)) or self.answer(message)
                if self._is_closed.is_set():
                    return
                self.post(f"answers?page={self.name}", {"number": last, "answer": answer})

    def answer(self, message: Answer) -> Answer:
        """What a page that works answers."""
        session = message["session"]
        if "open" in message:
            opening = message["open"]
            path = (self._folder or Path()) / f"{opening['file']}.{opening['format']}"
            path.write_bytes(self.get(f"files/{opening['file']}").content)
            self._models[session] = open_model(path)
            return {"load_ms": 5.0, "first_ms": 2.0, "num_threads": 1}
        if "run" in message:
            self.num_runs += 1
            times = np.exp(self._random.normal(0, 0.05, message["run"]))
            return {"times_ms": [float(time) for time in times]}
        if "image" in message:
            numbers = np.frombuffer(base64.b64decode(message["image"]), "<f4")
            shape = self._models[session].input_shape
            answer = self._models[session].predict(numbers.reshape(1, *shape))[0]
            return {"answer": [float(number) for number in answer]}
        return {}
