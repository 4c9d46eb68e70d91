"""Public benchmarks of chat models, by the names that `evaluation.suite` has for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moslim_core.endpoint import Endpoint
from moslim_core.evaluation.benchmarks.benchmark import Benchmark
from moslim_core.evaluation.benchmarks.hackaprompt import HackAPrompt
from moslim_core.evaluation.benchmarks.halueval2 import HaluEval2
from moslim_core.evaluation.benchmarks.mt_bench import MTBench
from moslim_core.evaluation.benchmarks.xstest import XSTest

# A benchmark is made with the language model that judges, None where there is none.
BENCHMARKS: dict[str, Callable[[Endpoint | None], Benchmark[Any]]] = {
    benchmark.name: benchmark for benchmark in (MTBench, HaluEval2, HackAPrompt, XSTest)
}
