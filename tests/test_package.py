"""What a base install is: light, without PyTorch, with the embedded model."""

import re
from importlib.metadata import entry_points, requires

from mdrt.runtime.bundle import load_bundle
from mdrt.runtime.segmenter import EMBEDDED

HEAVY = {"torch", "diffusers", "transformers", "onnx", "onnxscript", "cupy", "tensorrt"}


def test_the_base_install_needs_nothing_heavy():
    base = [line for line in requires("mdrt") or [] if "extra ==" not in line]
    names = {re.split(r"[<>=!~ ;\[]", line)[0].lower() for line in base}
    assert names == {"click", "numpy", "onnxruntime", "pillow", "rich", "tokenizers"}
    assert not names & HEAVY


def test_the_command_is_installed():
    (command,) = entry_points(group="console_scripts", name="mdrt")
    assert command.value == "mdrt.cli:main"


def test_the_embedded_bundle_is_whole_and_small():
    bundle = load_bundle(EMBEDDED, verify=True)
    assert len(bundle.manifest.classes) == 14
    assert sum(record.bytes for record in bundle.manifest.files.values()) <= 25e6
