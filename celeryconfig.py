"""Every Celery setting, each with its reason."""

from typing import Any

from celery.schedules import crontab

from lern.client import worker_client
from lern.redis_timeouts import TIMEOUTS
from lern.settings import Settings

_settings = Settings.load()

# Where the messages are. Without an address `lern worker` starts the private Redis and says where it is.
broker_url = _settings.broker_url or "redis://127.0.0.1:6379/0"
# One queue: recovery compares what the ledger calls queued with the oldest message, and that needs one order.
task_default_queue = _settings.queue
# The ledger is the truth about what happened; a second truth would only disagree with it.
result_backend = None
task_ignore_result = True
# JSON only: a message must not be able to run code.
task_serializer = "json"
accept_content = ["json"]
# A message is gone only when its step is through: a killed worker's message comes back.
task_acks_late = True
# A step that raised has been entered in the ledger; its message must not come back.
task_acks_on_failure = True
task_acks_on_timeout = True
# A child that was killed gives its message back at once. The ledger counts how often (LERN_MAX_LOST).
task_reject_on_worker_lost = True
# One message per child: a long merge must not sit on others that an idle worker could take.
worker_prefetch_multiplier = 1
worker_concurrency = _settings.concurrency
# The broker may restart under a running worker.
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
# A step that runs when the connection breaks goes on: its locks and the ledger guard it, not the message.
worker_cancel_long_running_tasks_on_connection_loss = False
broker_transport_options: dict[str, Any] = {
    # After so long (seconds) Redis hands an unacknowledged message to another worker. The sweeper recovers
    # within seconds what died; this is the net below it. A step that takes longer is not done twice: its
    # second copy finds it at work and ends.
    "visibility_timeout": 3600,
    # By this a worker is told from Flower, which waits for messages of its own at the same server.
    "client_name": worker_client(_settings.queue),
    "socket_keepalive": True,
    # A Redis that says nothing is left, and connected to anew.
    **TIMEOUTS,
}
# SIGTERM: steps end with the chunk in hand and go to other workers. SIGQUIT: they get this long (seconds), then
# they are killed and their messages go back to the queue.
worker_soft_shutdown_timeout = 10.0
worker_enable_soft_shutdown_on_idle = False
# Admins look at the workers in Flower, which lives on these events.
worker_send_task_events = True
# They leave together, a few times a second: one by one they were two fifths of the main process's work.
worker_consumer = "tasks.consumer:Consumer"
task_send_sent_event = False
# Our own logging (structlog), not Celery's.
worker_hijack_root_logger = False
# The clock of the machine; all our times are milliseconds since 1970 UTC anyway.
enable_utc = True
timezone = "UTC"
# Beat keeps no file: times by the clock need no memory, and there is nothing that a kill could spoil.
beat_scheduler = "celery.beat:Scheduler"
# What is sent twice does no harm. What lies in the queue for so long (seconds) is dropped: the next one does the same.
beat_schedule = {
    # A device that comes online is noticed within minutes of the look that is due (an hour, a day … after the merge).
    "sweep late rows": {"task": "upkeep.sweep", "schedule": crontab(minute="*/5"), "options": {"expires": 3600}},
    # Little and often: a day's worth of old runs is a few minutes' work, and a long one would be in the way of merges.
    "prune": {"task": "upkeep.prune", "schedule": crontab(minute=17), "options": {"expires": 6 * 3600}},
    # A user who stays locked waits for somebody to look: that is said within two minutes.
    "stuck locks": {"task": "upkeep.locks", "schedule": crontab(), "options": {"expires": 600}},
}
# The modules that hold tasks.
imports = (
    "tasks.merge",
    "tasks.ownership",
    "tasks.undo",
    "tasks.upkeep",
    "tasks.verify",
    "tasks.sweeper",
    "workflows.intake",
    "workflows.replay",
)
