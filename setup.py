"""Where the packages lie; everything else stands in pyproject.toml.

`trainers/`, `datasets/` and `configs/` stand at the top level of a checkout, where the field looks
for them, and become sub-packages of `promptclip` when installed: an installed top-level package
`datasets` would shadow Hugging Face's. `runtime/`, a package of its own, comes along as well, in a
folder that is no package and is looked into only where no `dassl` is installed.
"""

from setuptools import find_packages, setup

engine = find_packages("runtime", include=["dassl", "dassl.*"])

setup(
    packages=[
        *find_packages(include=["promptclip", "promptclip.*"]),
        "promptclip.assets",
        "promptclip.configs",
        "promptclip.datasets",
        "promptclip.published",
        "promptclip.trainers",
        *(f"promptclip.runtime.{name}" for name in engine),
    ],
    package_dir={
        **{f"promptclip.{name}": name for name in ("configs", "datasets", "trainers")},
        **{f"promptclip.runtime.{name}": f"runtime/{name.replace('.', '/')}" for name in engine},
    },
    package_data={
        "promptclip": ["py.typed"],
        "promptclip.runtime.dassl": ["py.typed"],
        "promptclip.assets": ["*.safetensors"],
        "promptclip.configs": ["*/*.yaml", "*/*/*.yaml"],
        "promptclip.published": ["*.csv"],
    },
)
