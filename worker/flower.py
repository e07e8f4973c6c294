"""The Celery application that Flower is to look at: `celery --app worker.flower flower`."""

from jobs.broker import find_broker
from jobs.errors import BrokerError
from jobs.queue import make_app
from jobs.settings import Settings

_URL = find_broker(Settings.load())
if _URL is None:
    raise BrokerError("no broker runs", hint="set ENDMARK_BROKER_URL, or start a worker first")
app = make_app(_URL, "endmark")
