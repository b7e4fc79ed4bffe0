"""ik_llama.cpp: llama.cpp's files and places, with a cache, a scheduler and graphs of its own."""

from __future__ import annotations

from oomph.engines.ik.deploy import ENGINE
from oomph.engines.ik.job import IkJob
from oomph.engines.ik.served import IkServed

__all__ = ["ENGINE", "IkJob", "IkServed"]
