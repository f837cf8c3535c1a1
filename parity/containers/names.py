"""The file names under which models are published, the preferred first."""

INDEX = ".index.json"
CANDIDATES = (
    "model.safetensors",
    "model.safetensors" + INDEX,
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin" + INDEX,
    "open_clip_pytorch_model.bin",
    "flax_model.msgpack",
)
TORCH = (".pth", ".pt", ".bin")
SUFFIXES = (".safetensors", ".npz", ".msgpack", *TORCH)
BESIDE = ("preprocessor_config.json", "open_clip_config.json")
"""What lies beside the weights and says more of a model than its `config.json`."""
