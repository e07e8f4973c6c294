"""A stand-in for vLLM 0.24 on a CPU: its interface as far as Endmark uses it, recorded from its source.

It computes real models, whole rows anew at each step; its scheduler cuts prompts into parts, sends rows back where
blocks run out, moves rows in its batch, and is a step ahead of its own results, as vLLM's does.
"""

from vllm.sampling_params import SamplingParams
from vllm.v1.engine.llm_engine import EngineArgs, LLMEngine

__all__ = ["EngineArgs", "LLMEngine", "SamplingParams"]
__version__ = "0.24.0"
