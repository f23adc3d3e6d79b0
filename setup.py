"""Where the packages lie; everything else stands in pyproject.toml.

`trainers/`, `datasets/` and `configs/` stand at the top level of a checkout, where the field looks
for them, and become sub-packages of `promptclip` when installed: an installed top-level package
`datasets` would shadow Hugging Face's.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["promptclip", "promptclip.*"]),
        "promptclip.assets",
        "promptclip.configs",
        "promptclip.datasets",
        "promptclip.published",
        "promptclip.trainers",
    ],
    package_dir={f"promptclip.{name}": name for name in ("configs", "datasets", "trainers")},
    package_data={
        "promptclip.assets": ["*.safetensors"],
        "promptclip.configs": ["*/*.yaml", "*/*/*.yaml"],
        "promptclip.published": ["*.csv"],
    },
)
