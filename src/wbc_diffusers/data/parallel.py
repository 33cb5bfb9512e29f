"""Map a function over jobs in several processes, in order, with the source's tables at hand in each."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from wbc_diffusers.data.sources import Source

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")
Function = Callable[[JobT, Mapping[str, Any], str], ResultT]

_shared: dict[str, Any] = {}


def available_workers() -> int:
    """Processors that this process may use; not every system tells."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def parallel_map(
    function: "Function[JobT, ResultT]", jobs: Sequence[JobT], workers: int, source: Source
) -> Iterator[ResultT]:
    """Yield `function(job, source.tables, source.image_column)` for each job, in the order of the jobs."""
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            yield function(job, source.tables, source.image_column)
        return
    # A fresh interpreter per process: forking a process that holds threads (Arrow's, torch's) can deadlock.
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(function, source.tables, source.image_column),
    )
    with pool:
        try:
            yield from pool.map(_run, jobs, chunksize=max(1, min(32, len(jobs) // (4 * workers))))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _start(function: Callable[..., Any], tables: Mapping[str, Any], image_column: str) -> None:
    _shared.update(function=function, tables=tables, image_column=image_column)
    end_with_parent()


def end_with_parent() -> None:
    """Let this process end when the one that started it is gone: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _run(job: Any) -> Any:
    return _shared["function"](job, _shared["tables"], _shared["image_column"])
