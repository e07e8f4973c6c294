"""The GPU side: the Celery app and its one task, the supervisor, the service thread that feeds the engine."""

import logging

# On processors with bf16 products bitsandbytes warns, when it is imported, that a kernel is missing which Endmark
# never uses: on a CPU it computes in fp32 everywhere, so that an answer does not depend on the processor.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
