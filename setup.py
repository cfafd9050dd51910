"""Where the packages are: ``environments/`` and ``recipes/`` install below ``gym_adapters``.

Everything else about the distribution is in ``pyproject.toml``.
"""

from __future__ import annotations

from setuptools import find_namespace_packages, setup

MAPPED = {
    "gym_adapters": "gym_adapters",
    "gym_adapters.environments": "environments",
    "gym_adapters.recipes": "recipes",
}
NOT_PACKAGES = ["data", "data.*", "*.data", "*.data.*", "*__pycache__*"]
DATA = [
    "py.typed",
    "data/**/*",
    *(
        f"*.{suffix}"
        for suffix in (
            "csv",
            "css",
            "html",
            "jinja",
            "js",
            "json",
            "jsonl",
            "md",
            "sql",
            "svg",
            "tar.gz",
            "toml",
            "tsv",
            "txt",
            "yaml",
            "yml",
        )
    ),
]


def packages_below(name: str, folder: str) -> list[str]:
    """The package `name` that lives in `folder`, and every folder below it but its data."""
    return [name, *(f"{name}.{p}" for p in find_namespace_packages(folder, exclude=NOT_PACKAGES))]


setup(
    packages=[p for name, folder in MAPPED.items() for p in packages_below(name, folder)],
    package_dir=MAPPED,
    package_data={"": DATA},
)
