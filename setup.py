"""pyproject.toml has everything but this: tests beside the code stay out of the wheel."""

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithoutTests(build_py):
    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        modules = super().find_package_modules(package, package_dir)
        return [row for row in modules if not row[1].startswith("test_")]


setup(cmdclass={"build_py": BuildWithoutTests})
