"""The bundled demo model: small, trained by the project itself, and with the stopping problem on purpose."""

from endmark.jobs.hub import BUNDLED

MODEL_DIR = BUNDLED  # an ordinary Hugging Face folder
