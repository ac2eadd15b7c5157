"""The Celery tasks. Each step of a run is one task; `step.py` holds what all of them share."""
