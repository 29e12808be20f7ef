"""Chromium without a window, driven over its DevTools protocol through a pipe."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

NAMES = "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"
FLAGS = """--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --disable-extensions --mute-audio
    --force-color-profile=srgb --hide-scrollbars --remote-debugging-pipe""".split()
SECONDS = 60  # for an answer


def find() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One tab. Errors of its console are in `errors`, what it wanted from outside in `asked`."""

    def __init__(self, folder: Path):
        to_browser, self.out = os.pipe()
        self.answers, from_browser = os.pipe()
        # its protocol: commands on descriptor 3, answers on 4
        command = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
        words = [find(), *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", command, *words], pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self.numbers, self.unread, self.session = itertools.count(1), b"", None
        self.errors, self.asked = [], []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method, **params):
        """One command -> its result; events that come before it are noted."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.hear(answer)

    def receive(self):
        end = time.monotonic() + SECONDS
        while b"\0" not in self.unread:
            ready, *_ = select.select([self.answers], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            more = os.read(self.answers, 2**20)
            assert more, "the browser has ended"
            self.unread += more
        message, self.unread = self.unread.split(b"\0", 1)
        return json.loads(message)

    def hear(self, event):
        name, values = event.get("method"), event.get("params", {})
        if name == "Runtime.exceptionThrown":
            self.errors.append(values["exceptionDetails"])
        elif name == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning"):
            self.errors.append(values)
        elif name == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
            self.errors.append(values["entry"])
        elif name == "Network.requestWillBeSent":
            self.asked.append(values["request"]["url"])

    def open(self, path, width=1280, height=900, dark=False, after=""):
        """Load a page from disk, as a phone if it is narrow."""
        self.errors, self.asked = [], []
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        for url in ("about:blank", Path(path).resolve().as_uri() + after):
            self.send("Page.navigate", url=url)
            while self.run("document.readyState") != "complete" or self.run("location.href") != url:
                time.sleep(0.02)
        self.run("typeof player === 'undefined' || !player ? 0 : player.ready.then(() => 0)")
        self.settle()

    def settle(self):
        """Two frames later, what was asked for is drawn."""
        self.run("new Promise(f => requestAnimationFrame(() => requestAnimationFrame(() => f(0))))")

    def run(self, script):
        """The value of a script, awaited if it is a promise."""
        result = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def click(self, x, y, clicks=1):
        self.drag([(x, y)], clicks)

    def drag(self, points, clicks=1):
        more = {"button": "left", "clickCount": clicks}
        kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 1)]
        for kind, (x, y) in zip(kinds, points):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)
        x, y = points[-1]
        self.send("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, **more)
        self.settle()

    def press(self, key, code="", text=""):
        more = {"key": key, "code": code or key} | ({"text": text} if text else {})
        self.send("Input.dispatchKeyEvent", type="keyDown", **more)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, code=code or key)
        self.settle()

    def screenshot(self, path, whole=True):
        data = self.send("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        Path(path).write_bytes(base64.b64decode(data))

    def close(self):
        try:
            self.session = None
            self.send("Browser.close")
            self.process.wait(10)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        os.close(self.out)
        os.close(self.answers)
