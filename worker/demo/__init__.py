"""The bundled demo model: small, trained by the project itself, and with the stopping problem on purpose."""

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"  # an ordinary Hugging Face folder
