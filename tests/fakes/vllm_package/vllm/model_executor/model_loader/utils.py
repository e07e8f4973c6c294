"""The classes of models, as far as vLLM's loader looks at them."""

WITHOUT_PACKED_LAYERS = {"GPTJForCausalLM", "MambaForCausalLM", "PersimmonForCausalLM"}  # of those that are tested


def get_model_architecture(model_config):
    name = model_config.hf_config.architectures[0]
    return type(name, (), {} if name in WITHOUT_PACKED_LAYERS else {"packed_modules_mapping": {}}), name
