"""The Celery application that Flower is to look at: `celery --app endmark.worker.service.flower flower`."""

from endmark.jobs.broker.access import find_broker
from endmark.jobs.errors import BrokerError
from endmark.jobs.queue import make_app
from endmark.jobs.settings import Settings

_URL = find_broker(Settings.load())
if _URL is None:
    raise BrokerError("no broker runs", hint="set ENDMARK_BROKER_URL, or start a worker first")
app = make_app(_URL, "endmark")
