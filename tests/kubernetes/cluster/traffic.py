"""Pods that are made without a pause, in a thread: each must get its sidecar."""

import threading

from devtools import Failure, wait_until
from pods import containers, is_injected, make, pod


class Traffic:
    """Dry runs: nothing is stored. `may_miss`: pods without a sidecar are counted, not an error."""

    def __init__(self, api, may_miss=False):
        self.api = api
        self.may_miss = may_miss
        self.count = 0
        self.missed = 0
        self.image = None
        self.problem = None
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while not self.stopping.is_set() and self.problem is None:
            answer = make(self.api, pod("traffic"), dry_run=True)
            self.count += 1
            if is_injected(answer.body):
                self.image = containers(answer.body)["sidestream"]["image"]
            elif self.may_miss:
                self.missed += 1
            else:
                self.problem = f"pod {self.count}: {answer.status} {answer.message or 'no sidecar'}"
            self.stopping.wait(0.02)

    def more(self, count):
        """Waits for so many more, and returns how many there were in all."""
        until = self.count + count
        wait_until(lambda: self.count >= until or self.problem, f"{count} more pods")
        return self.count

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        self.stopping.set()
        self.thread.join()
        if kind is None and self.problem:
            raise Failure(self.problem)
