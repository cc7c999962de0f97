"""A process that follows its parent ends with it, however that one ends; others are left alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from importlib.metadata import entry_points
from multiprocessing.connection import Connection

import psutil

from pipeline.profile.llm.orphans import end_with_parent


def child(said: Connection) -> None:
    signal.signal(signal.SIGTERM, lambda *_: None)  # as vLLM's engine, which waits for its loop to look
    end_with_parent()
    said.send(os.getpid())
    time.sleep(600)


def parent(said: Connection) -> None:
    multiprocessing.get_context("spawn").Process(target=child, args=(said,)).start()
    time.sleep(600)


def test_a_child_ends_with_its_killed_parent() -> None:
    here, there = multiprocessing.Pipe()
    top = multiprocessing.get_context("spawn").Process(target=parent, args=(there,))
    top.start()
    try:
        assert here.poll(120)
        orphan = psutil.Process(here.recv())
        top.kill()
        _, alive = psutil.wait_procs([orphan], timeout=60)
        for process in alive:
            process.kill()
        assert alive == []
    finally:
        top.kill()


def test_a_process_of_no_parent_is_left_alone() -> None:
    end_with_parent()
    assert "end-with-parent" not in [thread.name for thread in threading.enumerate()]


def test_vllm_finds_it() -> None:
    (found,) = [each for each in entry_points(group="vllm.general_plugins") if each.name == "mentorec"]
    assert found.load() is end_with_parent
