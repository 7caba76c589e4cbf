"""Many clips: what is asked for, who does it, and what became of it; resumable after any end."""

from vidinvert.batch.cluster import RayEngine
from vidinvert.batch.inputs import OUTPUT_SUFFIXES, Found, find_clips
from vidinvert.batch.local import LocalEngine
from vidinvert.batch.orders import Order, Setup
from vidinvert.batch.report import write_reports
from vidinvert.batch.supervisor import Event, Limits, Outcome, list_done, run_batch

__all__ = [
    "OUTPUT_SUFFIXES",
    "Event",
    "Found",
    "Limits",
    "LocalEngine",
    "Order",
    "Outcome",
    "RayEngine",
    "Setup",
    "find_clips",
    "list_done",
    "run_batch",
    "write_reports",
]
