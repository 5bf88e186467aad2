"""A headless Chromium, controlled by its DevTools protocol over two pipes."""

from __future__ import annotations

import itertools
import json
import os
import select
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 120.0  # longest wait for an answer of the browser


def found():
    """Return the path of an installed Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page of a new browser, with a new profile in `folder`."""

    def __init__(self, folder):
        give, ours_in = os.pipe()
        ours_out, take = os.pipe()
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
        command = [found(), *flags, "--remote-debugging-pipe", f"--user-data-dir={folder}"]
        # The child has the protocol's pipes as file descriptors 3 and 4.
        shell = f'exec "$@" 3<&{give} 4>&{take}'
        self._child = subprocess.Popen(
            ["bash", "-c", shell, "-", *command, "about:blank"],
            pass_fds=(give, take), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(give)
        os.close(take)
        self._in, self._out, self._held = ours_in, ours_out, b""
        self._count, self._session = itertools.count(1), None
        self.events = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def close(self):
        """End the browser."""
        self._child.kill()
        self._child.wait()
        os.close(self._in)
        os.close(self._out)

    def call(self, method, **params):
        """Send a command and return its result. Other messages of the browser go into `events`."""
        number = next(self._count)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._in, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def value(self, expression):
        """Return the value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression):
        """Wait until an expression is true, and return its value."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if value := self.value(expression):
                return value
            time.sleep(0.01)
        raise AssertionError(f"{expression} did not come")

    def type(self, text, key=None):
        """Type into the focused element, then press a key."""
        self.call("Input.insertText", text=text)
        if key:
            codes = {"key": key, "code": key, "windowsVirtualKeyCode": 13, "text": "\r"}
            self.call("Input.dispatchKeyEvent", type="keyDown", **codes)
            self.call("Input.dispatchKeyEvent", type="keyUp", **codes)

    def _next(self):
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._out], [], [], SECONDS)
            assert ready, "the browser says nothing"
            data = os.read(self._out, 2**20)
            assert data, "the browser has ended"
            self._held += data
        message, self._held = self._held.split(b"\0", 1)
        return json.loads(message)
